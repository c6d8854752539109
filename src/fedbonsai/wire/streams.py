"""Streams of pieces: zstd as a plain Huffman coder, and one pool for all small pieces.

The presets of zstd look for matches where there are none and lose 13 to 27 % on the exponents of
floats; with a table of 64 hashes it leaves symbols alone and codes them by their frequencies.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from fedbonsai.wire.errors import FieldError, StreamError, TrailingError, TruncatedError, require
from fedbonsai.wire.fields import Cursor, varint
from fedbonsai.wire.limits import Budget

Array = NDArray[Any]
"""Any numpy array."""

LARGE = 4096
"""Pieces of this many bytes stand by themselves."""

_FRAME = bytes.fromhex("28b52ffd0038")
_SAMPLE = 2048


def _parameters(**own: int) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters(window_log=17, write_content_size=False, **own)


HUFFMAN = _parameters(
    strategy=zstandard.STRATEGY_FAST,
    hash_log=6,
    chain_log=6,
    search_log=1,
    min_match=7,
    target_length=0,
)
"""Codes symbols by their frequencies; the smallest table finds hardly any match."""

TEXT = _parameters(
    strategy=zstandard.STRATEGY_LAZY,
    hash_log=12,
    chain_log=12,
    search_log=5,
    min_match=4,
    target_length=32,
)
"""Looks for repetitions, such as those of names."""


_COMPRESSORS: dict[zstandard.ZstdCompressionParameters, deque[zstandard.ZstdCompressor]] = {
    HUFFMAN: deque(),
    TEXT: deque(),
}
_DECOMPRESSORS: deque[zstandard.ZstdDecompressor] = deque()
"""Those that nobody uses just now: making one takes longer than compressing something small, and no two threads may
use one at a time."""


def squeeze(data: bytes | memoryview, parameters: zstandard.ZstdCompressionParameters) -> bytes | memoryview:
    """Compress to blocks without a frame header, where that makes it shorter.

    Equal lengths mean that it is stored as it is.
    """
    idle = _COMPRESSORS[parameters]
    try:
        one = idle.pop()
    except IndexError:
        one = zstandard.ZstdCompressor(compression_params=parameters)
    frame = one.compress(data)
    idle.append(one)
    return frame[len(_FRAME) :] if len(frame) - len(_FRAME) < len(data) else data


def expand(data: memoryview, length: int, place: str, budget: Budget) -> memoryview:
    """Undo `squeeze`.

    Raises:
        StreamError: The block is not valid, or not of ``length`` bytes.
    """
    if len(data) == length:
        return data
    budget.spend(length + len(data), place)
    try:
        one = _DECOMPRESSORS.pop()
    except IndexError:
        one = zstandard.ZstdDecompressor(max_window_size=2**17)
    try:
        raw = one.decompress(_FRAME + data, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise StreamError(place, f"the block is not valid for {length} bytes: {error}") from None
    _DECOMPRESSORS.append(one)
    require(
        len(raw) == length,
        StreamError,
        place,
        f"a block must hold {length} bytes, it holds {len(raw)}",
    )
    return memoryview(raw)


@dataclass(frozen=True)
class Directory:
    """Lengths of a stream: its pool before and after compression, its large pieces after it."""

    pool: int
    pool_coded: int
    large: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes of the stream in the message."""
        return self.pool_coded + sum(self.large)

    def write(self) -> bytes:
        """The directory as it stands in the table."""
        pool = varint(self.pool) + (varint(self.pool_coded) if self.pool else b"")
        return pool + varint(len(self.large)) + b"".join(varint(one) for one in self.large)

    @staticmethod
    def read(cursor: Cursor, most: int) -> "Directory":
        """Read a directory of at most ``most`` large pieces."""
        pool = cursor.varint()
        coded = cursor.varint() if pool else 0
        number = cursor.count(most, "pieces")
        large = tuple(cursor.varint() for _ in range(number))
        require(all(large), FieldError, cursor.place, "no piece takes 0 bytes")
        return Directory(pool, coded, large)


@dataclass(frozen=True)
class Stream:
    """A stream ready to be sent."""

    directory: Directory
    blocks: tuple[bytes | memoryview, ...]


@dataclass
class Sink:
    """Collects the pieces of two streams: symbols, which compress, and the rest, which may not."""

    symbols: list[Array] = field(default_factory=list)
    rest: list[Array] = field(default_factory=list)


def write_symbols(pieces: Sequence[Array]) -> Stream:
    """Compress pieces to a stream."""
    return _write(pieces, _huffman)


def write_rest(pieces: Sequence[Array]) -> Stream:
    """Compress the pieces of a stream that seem to be worth it, by samples."""
    return _write(pieces, lambda piece: piece if _hopeless(piece) else _huffman(piece))


def write_stored(pieces: Sequence[Array]) -> Stream:
    """Leave pieces as they are."""
    return _write(pieces, lambda piece: piece)


def _write(pieces: Sequence[Array], code: Callable[[memoryview], bytes | memoryview]) -> Stream:
    views = [np.ascontiguousarray(one).data.cast("B") for one in pieces if one.size]
    pool = b"".join(one for one in views if len(one) < LARGE)
    large = [one for one in views if len(one) >= LARGE]
    coded = [code(one) for one in large]
    small = code(memoryview(pool)) if pool else pool
    return Stream(Directory(len(pool), len(small), tuple(map(len, coded))), (small, *coded))


def _huffman(piece: bytes | memoryview) -> bytes | memoryview:
    return squeeze(piece, HUFFMAN)


def write_text(data: bytes) -> Stream:
    """A stream of one piece that is coded like text, whatever its length."""
    coded = squeeze(data, TEXT) if data else data
    return Stream(Directory(len(data), len(coded), ()), (coded,))


def _hopeless(piece: memoryview) -> bool:
    """Whether samples of a long piece do not compress: then the whole will not, and costs time."""
    if len(piece) < 16 * _SAMPLE:
        return False
    starts = (0, len(piece) // 2, len(piece) - _SAMPLE)
    sample = b"".join(piece[start : start + _SAMPLE] for start in starts)
    return len(_huffman(sample)) > 0.98 * len(sample)


Watch = Callable[[int, NDArray[np.uint8]], None]
"""Is told of every piece that is read, with the number of its stream in the group."""


def watch_nothing(_: int, __: NDArray[np.uint8]) -> None:
    """Let pieces pass."""


class StreamReader:
    """Hands out the pieces of a stream in order.

    Args:
        data: The stream as it stands in the message.
        directory: Its lengths.
        place: What it is, for messages.
        budget: Pays for what is decompressed.
        watch: Is told of every piece.
    """

    def __init__(
        self,
        data: memoryview,
        directory: Directory,
        place: str,
        budget: Budget,
        watch: Callable[[NDArray[np.uint8]], None],
    ) -> None:
        self.place = place
        self._data = data
        self._budget = budget
        self._watch = watch
        self._large = iter(directory.large)
        self._next = directory.pool_coded
        pool = data[: directory.pool_coded]
        self._pool = Cursor(expand(pool, directory.pool, f"{place}, pool", budget), f"{place}, pool")

    def take(self, length: int) -> NDArray[np.uint8]:
        """The next piece, which must have ``length`` bytes."""
        data = self._pool.take(length) if length < LARGE else self._take_large(length)
        piece = np.frombuffer(data, np.uint8)
        self._watch(piece)
        return piece

    def _take_large(self, length: int) -> memoryview:
        coded = next(self._large, None)
        if coded is None:
            raise TruncatedError(self.place, f"a piece of {length} bytes is missing")
        start, self._next = self._next, self._next + coded
        return expand(self._data[start : self._next], length, self.place, self._budget)

    def locate(self, place: str) -> None:
        """Say what is read from now on, for messages."""
        self.place = self._pool.place = place

    def finish(self) -> None:
        """Refuse pieces that nobody has asked for."""
        self._pool.finish()
        left = sum(1 for _ in self._large)
        require(not left, TrailingError, self.place, f"{left} pieces follow that belong to no tensor")


@dataclass(frozen=True)
class Source:
    """Where the pieces of tensors come from while they are decoded.

    Attributes:
        symbols: Pieces that were compressed.
        rest: Pieces that mostly were not.
        budget: Memory that is left.
    """

    symbols: StreamReader
    rest: StreamReader
    budget: Budget

    def locate(self, place: str) -> None:
        """Say what is read from now on, for messages."""
        self.symbols.locate(place)
        self.rest.locate(place)

    def finish(self) -> None:
        """Refuse pieces that nobody has asked for."""
        self.symbols.finish()
        self.rest.finish()
