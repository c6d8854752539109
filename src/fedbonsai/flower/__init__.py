"""The same run across devices: Flower carries the bytes, a worker on each device does the work.

For projects that have a ServerApp and a ClientApp of their own there is the drop-in: `Pruned`, `pruning_mod` and
`hold`. They are loaded when they are first used: importing this package needs neither Flower nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fedbonsai.core.errors import ConfigError

if TYPE_CHECKING:
    from fedbonsai.flower.holding import hold as hold
    from fedbonsai.flower.mod import pruning_mod as pruning_mod
    from fedbonsai.flower.pruned import Pruned as Pruned

_HOMES = {
    "Pruned": "fedbonsai.flower.pruned",
    "hold": "fedbonsai.flower.holding",
    "pruning_mod": "fedbonsai.flower.mod",
}

__all__ = ["Pruned", "hold", "pruning_mod"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"fedbonsai.flower has no {name!r}; it has {', '.join(__all__)}")
    try:
        home = import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flwr":
            raise
        raise ConfigError(
            f"{name} needs Flower, which is not installed; run: pip install 'fedbonsai[flower]'"
        ) from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
