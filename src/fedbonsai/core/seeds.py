"""Randomness as a value: every draw has a generator of its own, named by what it is for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(seed: int, purpose: str, round_: int = 0, client: int = 0) -> int:
    """Return a 63-bit seed that depends on all four arguments and on nothing else.

    The digest is SHA-256, so it is the same in every process, on every machine, in every version of Python.

    Examples:
        >>> seed_of(0, "batches", round_=3, client=7)
        6258639115613240087
    """
    digest = hashlib.sha256(f"{seed}|{purpose}|{round_}|{client}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, purpose: str, round_: int = 0, client: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose in one round on one client (see `seed_of`)."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, round_, client))


@contextmanager
def seeded(seed: int, purpose: str, round_: int = 0, client: int = 0) -> Iterator[None]:
    """Seed torch's global generators inside the block and put the caller's states back after it.

    Modules draw from the global generator (initial weights, dropout) and cannot be told otherwise; on a GPU from its.
    """
    before, number = torch.random.get_rng_state(), seed_of(seed, purpose, round_, client)
    elsewhere = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    torch.default_generator.manual_seed(number)
    if elsewhere:
        torch.cuda.manual_seed_all(number)
    try:
        yield
    finally:
        torch.random.set_rng_state(before)
        if elsewhere:
            torch.cuda.set_rng_state_all(elsewhere)
