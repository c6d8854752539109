"""An environment for each rival, made by venv and pip."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
"""The torch of all of them. Which build it is, pip's own settings say: one for the CPU alone is enough."""


@dataclass(frozen=True)
class Environment:
    """What pip installs for a rival.

    Attributes:
        rival: The package itself, as pip names it.
        needs: What it runs with.
        bare: Whether the rival comes without what it says it needs, because that cannot be installed.
    """

    rival: str
    needs: tuple[str, ...] = ()
    bare: bool = False

    @property
    def steps(self) -> list[list[str]]:
        """Arguments of pip, call by call."""
        if self.bare:
            return [list(self.needs), ["--no-deps", self.rival]]
        return [[*self.needs, self.rival]]


ENVIRONMENTS = {
    "pfl": Environment("pfl==0.6.0", (TORCH,)),
    # It asks for torchvision, whose wheels are built for another torch; it only uses its data sets.
    "fedlab": Environment(
        "fedlab==1.3.0",
        (TORCH, "numpy", "munch", "tqdm", "pandas", "pillow", "scikit-learn", "nvidia-ml-py"),
        bare=True,
    ),
    "flower": Environment("flwr[simulation]==1.41.0", (TORCH, "ray==2.55.1")),
    "fedjax": Environment("fedjax==0.0.17", ("jax==0.10.2",)),
}

SHOWN = ("torch", "pfl", "fedlab", "flwr", "ray", "fedjax", "jax")
"""Packages whose versions stand below the tables."""


def python_of(name: str, folder: Path) -> str:
    """The interpreter of a rival's environment, which is made when it is missing.

    Raises:
        subprocess.CalledProcessError: It cannot be made; pip has said why.
    """
    home, wanted = folder / name, ENVIRONMENTS[name]
    python, stamp = str(home.resolve() / "bin" / "python"), home / "made-of.json"
    recipe = json.dumps(wanted.steps)
    if stamp.exists() and stamp.read_text("utf-8") == recipe:
        return python
    print(f"making the environment of {name} in {home}", file=sys.stderr)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--clear", home], check=True)
    for step in wanted.steps:
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-input", *step], check=True)
    stamp.write_text(recipe, "utf-8")
    return python


def versions(python: str) -> dict[str, str]:
    """The packages of an environment that readers want to know of, with their versions."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)
    return {name: found[name] for name in SHOWN if name in found}
