"""Masks that many clients hold: eight coordinates a byte, and once each, however many hold them."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import torch

from fedbonsai.core.support import Support, pack_bits, unpack_bits

READY = 1 << 29
"""Bytes of masks that stay unpacked, those that were used last: clients of a round often hold the same."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A mask at rest."""

    digest: bytes
    shape: tuple[int, ...]
    bits: bytes


@dataclass(frozen=True, eq=False)
class Holding:
    """The masks of one client, or of many that hold the same."""

    masks: tuple[Packed, ...]


@dataclass
class _Pool:
    """All masks that somebody holds. One that nobody holds any more is forgotten."""

    masks: WeakValueDictionary[bytes, Packed] = field(default_factory=WeakValueDictionary)
    holdings: WeakValueDictionary[bytes, Holding] = field(default_factory=WeakValueDictionary)
    ready: OrderedDict[bytes, Support] = field(default_factory=OrderedDict)
    size: int = 0

    def holding(self, masks: Iterable[Packed]) -> Holding:
        masks = tuple(masks)
        key = b"".join(one.digest for one in masks)
        return self.holdings.setdefault(key, Holding(masks))

    def packed(self, support: Support) -> Packed:
        found = self.masks.get(support.digest)
        if found is None:
            bits = pack_bits(support.indicator()).numpy().tobytes()
            found = self.masks[support.digest] = Packed(support.digest, support.shape, bits)
        self._use(support)
        return found

    def unpacked(self, mask: Packed) -> Support:
        support = self.ready.get(mask.digest)
        if support is None:
            support = Support.masked(unpack_bits(torch.frombuffer(bytearray(mask.bits), dtype=torch.uint8), mask.shape))
            vars(support)["digest"] = mask.digest
        self._use(support)
        return support

    def _use(self, support: Support) -> None:
        """Keep a mask unpacked, in place of those that nobody has used for longest."""
        if support.digest not in self.ready:
            self.ready[support.digest] = support
            self.size += _size(support)
        self.ready.move_to_end(support.digest)
        while self.size > READY and len(self.ready) > 1:
            self.size -= _size(self.ready.popitem(last=False)[1])


@dataclass(frozen=True, eq=False)
class Held(Mapping[int, tuple[Support, ...]]):
    """Which masks each client holds. Immutable; `after` makes the next one, which shares what has not changed."""

    clients: Mapping[int, Holding] = field(default_factory=dict)
    _pool: _Pool = field(default_factory=_Pool)

    @staticmethod
    def of(known: Mapping[int, Iterable[Support]]) -> "Held":
        """The same as ``known``; it itself if it is one."""
        if isinstance(known, Held):
            return known
        empty = Held()
        return empty.after({client: empty.holding(supports) for client, supports in known.items()})

    @staticmethod
    def restored(masks: Iterable[Packed], holdings: Iterable[Iterable[int]], clients: Mapping[int, int]) -> "Held":
        """What was written down: masks, which of them each holding has, and the holding of each client."""
        pool, known = _Pool(), tuple(masks)
        pool.masks.update({one.digest: one for one in known})
        made = [pool.holding(known[place] for place in places) for places in holdings]
        return Held({client: made[place] for client, place in clients.items()}, pool)

    def holding(self, supports: Iterable[Support]) -> Holding:
        """Masks as `after` takes them, each once."""
        once = {support.digest: support for support in supports}
        return self._pool.holding(self._pool.packed(one) for one in once.values())

    def after(self, changes: Mapping[int, Holding]) -> "Held":
        """Where these clients hold something else: of no mask, nothing."""
        clients = {**self.clients, **changes}
        for client, holding in changes.items():
            if not holding.masks:
                del clients[client]
        return Held(clients, self._pool)

    def __getitem__(self, client: int) -> tuple[Support, ...]:
        return tuple(self._pool.unpacked(mask) for mask in self.clients[client].masks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)

    def __contains__(self, client: object) -> bool:
        return client in self.clients


def _size(support: Support) -> int:
    """Bytes of an unpacked mask, with the positions that it has looked up or soon will."""
    return support.numel + 8 * support.count
