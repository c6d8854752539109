"""What simulated clients keep, encoded, one behind the other in a file, which the system holds in memory while it can.

A file is only written at its end. What a round wrote counts once a record behind it says whose it is that counts, and
of a checkpoint's file only what was there when the checkpoint was written: a run may be killed at any time.
"""

import hashlib
import os
import struct
import tempfile
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedbonsai.core.errors import CheckpointError
from fedbonsai.core.state import Memory
from fedbonsai.federated.memories import memory_from_bytes, memory_to_bytes

WASTE = 1 << 26
"""Bytes of a file that nobody needs any more and that are still not worth copying the others."""

_HEAD = struct.Struct("<qq")  # whose record, or `_COUNTS`; its length
_COUNTS = -1


@dataclass(frozen=True)
class _Place:
    begin: int
    length: int


class _Log:
    """Records in a file; it grows at its end alone.

    Attributes:
        path: Where it is; None for a temporary file that has no name.
        length: Bytes that belong to it; what a killed process left beyond is written over.
        hasher: SHA-256 of these bytes.
    """

    def __init__(self, path: Path | None = None, *, new: bool = True) -> None:
        self.path, self.length, self.hasher = path, 0, hashlib.sha256()
        if path is None:
            self._file, name = tempfile.mkstemp(prefix="fedbonsai-")
            Path(name).unlink()
        else:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if new else 0), 0o644)
        weakref.finalize(self, os.close, self._file)

    def append(self, owner: int, data: bytes) -> _Place:
        head = _HEAD.pack(owner, len(data))
        place, end = _Place(self.length + len(head), len(data)), self.length
        for part in (head, data):
            left = memoryview(part)
            while left:
                done = os.pwrite(self._file, left, end)
                left, end = left[done:], end + done
        self.count(head, data)
        return place

    def count(self, *parts: bytes) -> None:
        """Let what stands at the end belong to it."""
        for part in parts:
            self.hasher.update(part)
            self.length += len(part)

    def read(self, place: _Place) -> bytes:
        parts, left = list[bytes](), place.length
        while left:
            parts.append(os.pread(self._file, left, place.begin + place.length - left))
            left -= len(parts[-1])
            if not parts[-1]:
                raise CheckpointError(f"{self.path or 'a temporary file'} must hold what clients keep, it is cut short")
        return b"".join(parts)

    def sync(self) -> None:
        """Make it survive a power cut."""
        os.fsync(self._file)


@dataclass
class Store(Mapping[int, Memory]):
    """Memories by client. What is written is provisional until `settle`.

    In the process it takes what a dictionary takes for each client that keeps anything, and no more.
    """

    _log: _Log | None = None
    _places: dict[int, _Place] = field(default_factory=dict)
    _written: dict[int, _Place] = field(default_factory=dict)
    _live: int = 0
    _failure: OSError | None = None

    @staticmethod
    def of(memories: Mapping[int, Memory]) -> "Store":
        """A store of memories that all count."""
        store = Store()
        for client, memory in memories.items():
            store.write(client, memory_to_bytes(memory))
        store.settle(list(memories))
        return store

    @staticmethod
    def opened(directory: Path, facts: Mapping[str, Any]) -> "Store":
        """What `save` has left in a directory.

        Args:
            directory: Where it is.
            facts: What `save` returned.

        Raises:
            CheckpointError: It is gone, cut short or damaged.
        """
        path = directory / Path(facts["file"]).name
        try:
            store = Store(_Log(path, new=False))
            found = store._replay(facts["bytes"])
        except OSError as error:
            raise CheckpointError(f"{path} must hold what clients keep, it cannot be read: {error}") from error
        if found != facts["sha256"]:
            raise CheckpointError(f"{path} must hold what clients keep, it is damaged: its checksum does not match")
        return store

    def write(self, client: int, data: bytes) -> None:
        """Put an encoded memory at the end; it counts when the round has accepted it.

        That it cannot be written is no fault of the client, for which this would pass here: `settle` raises it.
        """
        try:
            self._log = self._log or _Log()
            self._written[client] = self._log.append(client, data)
        except OSError as error:
            self._failure = error

    def settle(self, accepted: Collection[int]) -> None:
        """Let count what accepted clients have written since the last time; forget the rest.

        Raises:
            CheckpointError: It could not be written.
        """
        try:
            if self._failure is not None:
                raise self._failure
            self._settle([client for client in accepted if client in self._written])
        except OSError as error:
            place = (self._log and self._log.path) or tempfile.gettempdir()
            raise CheckpointError(
                f"what clients keep cannot be written to {place}: {error}; make room and resume"
            ) from error
        finally:
            self._failure = None
            self._written.clear()

    def read(self, client: int) -> bytes:
        """What a client keeps, encoded.

        Raises:
            KeyError: It keeps nothing.
        """
        place = self._places[client]
        return self._log.read(place) if self._log else b""

    def save(self, directory: Path, turn: int) -> dict[str, Any] | None:
        """See to it that all that counts is on disk.

        Args:
            directory: Where it is wanted; it stays there from then on, and grows there.
            turn: Names a new file, which is begun here or when half of the old one is of no use.

        Returns:
            What `opened` needs, in JSON's types; None when nobody keeps anything.

        Raises:
            OSError: It cannot be written.
        """
        if self._log is None or not self._places:
            return None
        path, log = directory / f"clients-{turn}.bin", self._log
        here = log.path is not None and log.path.parent == directory
        if not here or (self._wasteful(log) and log.path != path):
            log = self._copy(_Log(path))
        log.sync()
        return {"file": (log.path or path).name, "bytes": log.length, "sha256": log.hasher.hexdigest()}

    def __getitem__(self, client: int) -> Memory:
        return memory_from_bytes(self.read(client))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._places))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, client: object) -> bool:
        return client in self._places

    def _wasteful(self, log: _Log) -> bool:
        return log.length - self._live > max(self._live, WASTE)

    def _settle(self, clients: list[int]) -> None:
        if self._log and clients:
            self._log.append(_COUNTS, struct.pack(f"<{len(clients)}q", *clients))
        for client in clients:
            self._keep(client, self._written[client])
        if self._log and self._log.path is None and self._wasteful(self._log):
            self._copy(_Log())

    def _keep(self, client: int, place: _Place) -> None:
        before = self._places.get(client)
        self._live += place.length - (before.length if before else 0)
        self._places[client] = place

    def _copy(self, log: _Log) -> _Log:
        """Go on in another file, with what counts alone."""
        places = {client: log.append(client, self.read(client)) for client in self}
        log.append(_COUNTS, struct.pack(f"<{len(places)}q", *places))
        self._log, self._places = log, places
        return log

    def _replay(self, length: int) -> str:
        """Find everybody's place again; the checksum of all that was read."""
        log, written = self._log or _Log(), dict[int, _Place]()
        while log.length < length:
            head = log.read(_Place(log.length, _HEAD.size))
            owner, size = _HEAD.unpack(head)
            place = _Place(log.length + _HEAD.size, size)
            if not 0 <= size <= length - place.begin:
                raise CheckpointError(f"{log.path} must hold what clients keep, it is damaged")
            data = log.read(place)
            log.count(head, data)
            if owner == _COUNTS:
                for client in struct.unpack(f"<{size // 8}q", data[: size // 8 * 8]):
                    self._keep(client, written.pop(client, place))
            else:
                written[owner] = place
        return log.hasher.hexdigest()


def tidy(directory: Path, facts: Mapping[str, Any] | None) -> None:
    """Delete files of memories that the checkpoint does not name."""
    for path in directory.glob("clients-*.bin"):
        if facts is None or path.name != facts["file"]:
            with suppress(OSError):
                path.unlink()
