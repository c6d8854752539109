"""What the machine under the training offers: its cores, and a C library that keeps what is freed."""

import ctypes
import functools
import os

# glibc's numbers, from malloc.h, and a size that few activations reach: what is larger (a large model's tensors) is
# still handed back, or a server would keep the most that it ever needed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGE = 2**30, 2**26


@functools.cache
def keep_freed_memory() -> bool:
    """Stop glibc from handing buffers back to the system at every step; whether it could be told so.

    Each activation of a convolution is some megabytes. By default they are mapped, cleared page by page by the kernel
    and unmapped again in every step, a sixth of the time of training a small CNN. Other C libraries do not know these
    numbers or have no ``mallopt``; there nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_THRESHOLD, _LARGE))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
