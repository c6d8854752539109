"""What both ends of the traffic do alike: masks that later messages may refer to, and limits."""

from collections.abc import Iterable

from fedbonsai import wire
from fedbonsai.core.message import Message
from fedbonsai.core.support import Support


def masks(message: Message) -> tuple[Support, ...]:
    """The masks of a message, each once: what a later message may refer to."""
    parts = (part.support for parts in message.groups.values() for part in parts.values())
    return tuple(by_digest(support for support in parts if support.kind == "mask").values())


def by_digest(supports: Iterable[Support]) -> dict[bytes, Support]:
    """Supports by their digest."""
    return {support.digest: support for support in supports}


def message_limits(parameters: int) -> wire.Limits:
    """What a message for a model of so many parameters may be: a method may send several groups of its size."""
    return wire.Limits(max_parameters=max(1 << 20, 16 * parameters), max_bytes=max(1 << 27, 256 * parameters))
