"""Which replies of a round can be aggregated: Flower's strategies end a run at the first that is unlike the others."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from flwr.app import Message, RecordDict

from fedbonsai.core.errors import ClientError, WireError

logger = logging.getLogger("flwr")
"""Flower's own, so that lines stand where a project's other lines do."""

MOST_EXAMPLES = 1e9
"""The largest weight that a reply may claim in an average."""


def usable(replies: Iterable[Message], read: Callable[[Message], None]) -> list[Message]:
    """The replies that can be aggregated, in order, and the errors, of which a strategy tells itself.

    Others are dropped, with a line in the log: those that ``read`` refuses, and those whose records are not named like
    those of most others.

    Args:
        replies: What came.
        read: Reads a reply and puts what it has read in its place; raises WireError or ClientError.
    """
    kept = []
    for reply in replies:
        try:
            if not reply.has_error():
                read(reply)
            kept.append(reply)
        except (WireError, ClientError) as error:
            _tell_dropped(reply, str(error))
    forms = Counter(_form(reply.content) for reply in kept if not reply.has_error())
    usual = forms.most_common(1)[0][0] if forms else ()
    alike = []
    for reply in kept:
        if reply.has_error() or _form(reply.content) == usual:
            alike.append(reply)
        else:
            _tell_dropped(reply, f"its records must be like those of most others, {usual}; got {_form(reply.content)}")
    return alike


def require_weight(content: RecordDict, key: str | None) -> None:
    """Refuse metrics that name under ``key`` what no mean can be weighted by; None where a strategy takes no such mean.

    Raises:
        ClientError: It is not a number in (0, 1e9], or missing.
    """
    if key is None:
        return
    weights = [record.get(key) for record in content.metric_records.values()]
    if not weights or not all(isinstance(one, int | float) and 0 < one <= MOST_EXAMPLES for one in weights):
        raise ClientError(f"metric {key!r} must be in (0, {MOST_EXAMPLES:g}], got {weights[0] if weights else None}")


def _tell_dropped(reply: Message, reason: str) -> None:
    logger.warning("\t> Dropped the reply of node %d: %s", reply.metadata.src_node_id, reason[:500])


def _form(content: RecordDict) -> tuple[tuple[str, str], ...]:
    """The names of a reply's arrays and metrics."""
    arrays = [(name, "arrays") for name in content.array_records]
    metrics = [
        (f"{name}/{key}", f"{len(value)} numbers" if isinstance(value, list) else "number")
        for name, record in content.metric_records.items()
        for key, value in record.items()
    ]
    return tuple(sorted(arrays + metrics))
