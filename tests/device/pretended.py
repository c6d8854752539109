"""A device that torch takes for an accelerator and that computes as the CPU does, so that no accelerator is needed.

It refuses to mix its tensors with those of the CPU, as a GPU does, and gives the CPU's bits: what trains on it must
come to the same run, bit for bit.
"""

import subprocess
from pathlib import Path
from types import ModuleType

import torch
from torch.utils.cpp_extension import include_paths, library_paths

NAME = "pretended"


def build(directory: Path, compiler: str = "c++") -> Path:
    """Compile the device; takes about a quarter of a minute."""
    made = directory / "pretended.so"
    found = [f"-isystem{one}" for one in include_paths()] + [f"-L{one}" for one in library_paths()]
    options = ["-O0", "-w", "-std=c++20", "-fPIC", "-shared"]
    source = str(Path(__file__).with_name("pretended.cpp"))
    subprocess.run([compiler, *options, *found, source, "-o", str(made), "-lc10", "-ltorch_cpu"], check=True)
    return made


def load(made: Path) -> torch.device:
    """Make the device known to this process, which cannot forget it again."""
    torch.ops.load_library(str(made))
    torch.utils.rename_privateuse1_backend(NAME)
    module = ModuleType(f"torch.{NAME}")
    facts = {"is_available": True, "device_count": 1, "current_device": 0, "_is_in_bad_fork": False}
    for name, value in facts.items():
        setattr(module, name, lambda value=value: value)
    module.manual_seed_all = lambda seed: None
    torch._register_device_module(NAME, module)
    return torch.device(NAME, 0)
