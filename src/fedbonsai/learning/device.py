"""Where training is computed: on the CPU, or on an accelerator when there is one."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedbonsai.core.errors import ConfigError

CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        ConfigError: There is no such device here.

    Examples:
        >>> device_of("cpu")
        device(type='cpu')
    """
    try:
        found = torch.device(name)
        module = torch.get_device_module(found)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device must be one of cpu, cuda, cuda:1, ..., got {name!r}") from error
    if found.type == "cpu":
        return CPU
    if not hasattr(module, "is_available") or not module.is_available():
        raise ConfigError(f"device {name!r} is not here: torch {torch.__version__} finds none; write device=cpu")
    if (found.index or 0) >= module.device_count():
        raise ConfigError(f"device {name!r} is not here: there are {module.device_count()}, numbered from 0")
    return torch.device(found.type, found.index or 0)


@contextmanager
def exactly(device: str | None) -> Iterator[None]:
    """Inside the block an accelerator computes in full float32, and the same bits every time.

    Products in TF32 keep ten bits of the mantissa, which is convenient and not what was asked for; the quickest
    algorithms add up in an order of their own.
    """
    if not (device or "cpu").startswith("cuda"):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    products = torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    torch.set_float32_matmul_precision("highest")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have a deterministic implementation", UserWarning)
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
    finally:
        torch.use_deterministic_algorithms(mode=before[0], warn_only=before[1])
        torch.set_float32_matmul_precision(products)
