"""fedbonsai: train one network across many devices, prune it while it trains, ship it small.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedbonsai import methods as methods
    from fedbonsai import wire as wire
    from fedbonsai.experiment.api import run as run
    from fedbonsai.experiment.execute import Result as Result
    from fedbonsai.learning import losses as losses
    from fedbonsai.learning.task import Pool as Pool
    from fedbonsai.learning.task import Task as Task

_HOMES = {
    "run": "fedbonsai.experiment.api",
    "Result": "fedbonsai.experiment.execute",
    "Task": "fedbonsai.learning.task",
    "Pool": "fedbonsai.learning.task",
    "losses": "fedbonsai.learning.losses",
    "methods": "fedbonsai.methods",
    "wire": "fedbonsai.wire",
}

__all__ = ["Pool", "Result", "Task", "losses", "methods", "run", "wire"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"fedbonsai has no {name!r}; it has {', '.join(__all__)}")
    module = import_module(_HOMES[name])
    return module if _HOMES[name].rpartition(".")[2] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
