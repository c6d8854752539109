"""Our bytes in a message of Flower's. Imports nothing heavy: a relay is started anew for every message."""

from flwr.app import Array, ArrayRecord, RecordDict

from fedbonsai.core.errors import ClientError

STYPE = "fedbonsai.message.v1"
"""What the one array of a message calls itself; nothing else is taken."""

BLOB = "message"


def as_record(data: bytes) -> ArrayRecord:
    """Bytes as the one array of a message: arrays travel in pieces, other records whole."""
    return ArrayRecord({BLOB: Array("uint8", (len(data),), STYPE, data)})


def from_content(content: RecordDict, most: int) -> bytes:
    """The bytes of a message that may be anything.

    Raises:
        ClientError: It is none of ours, or too long.
    """
    record = content.array_records.get(BLOB)
    array = record.get(BLOB) if record is not None else None
    if array is None or array.stype != STYPE:
        raise ClientError(f"a message must have one array {BLOB!r} of type {STYPE}, it has not")
    if len(array.data) > most:
        raise ClientError(f"a message must have at most {most} bytes, got {len(array.data)}")
    return bytes(array.data)
