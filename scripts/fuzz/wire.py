"""Fuzz target for atheris: ``python scripts/fuzz/wire.py [libFuzzer's options]``.

Needs ``pip install atheris`` (a wheel for Linux; part of no extra: only this file uses it). The
hostile corpus and small good messages are the seeds. Half of the mutations get their checksums
repaired, so that the checks behind these are reached. Anything but a `WireError` is a find.
"""

import contextlib
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fedbonsai.wire"]):
    from fedbonsai.core.errors import WireError
    from fedbonsai.wire import Limits, decode, describe

sys.path.insert(0, str(Path(__file__).parents[2] / "tests/wire"))
import corpus
import craft

LIMITS = Limits(max_bytes=2**24, max_parameters=2**18)


def read(data: bytes) -> None:
    """Decode and describe any bytes."""
    for act in (decode, describe):
        with contextlib.suppress(WireError):
            act(data, limits=LIMITS)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Change a message by libFuzzer's means or ours; repair its checksums half of the time."""
    chance = random.Random(seed)
    if data and chance.random() < 0.5:
        return craft.mutate(data, chance)[:most]
    changed = atheris.Mutate(data, most)
    return craft.reseal(changed) if chance.random() < 0.5 else changed


def main() -> None:
    """Start from the corpus and the good messages."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in corpus.seeds().items():
            (Path(folder) / name).write_bytes(data)
        arguments = [*sys.argv, folder, str(corpus.HERE)]
        atheris.Setup(arguments, read, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
