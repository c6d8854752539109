"""Every way in which bytes from outside can be wrong: a closed list (see docs/wire-format.md)."""

from fedbonsai.core.errors import UnknownSupport, WireError


class MessageError(WireError):
    """Base of the list: says where in the message the fault is, and what must hold there.

    Attributes:
        place: Where, in words: ``table``, ``group 'weights', tensor 'conv1.weight', gaps``.
        problem: What must hold, what was got.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place = place
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


class TruncatedError(MessageError):
    """The bytes end before the message does."""


class TrailingError(MessageError):
    """Bytes follow where none may."""


class NotAMessageError(MessageError):
    """The bytes do not begin like a message."""


class VersionError(MessageError):
    """A version of the format that this decoder does not know."""


class ChecksumError(MessageError):
    """A checksum does not match: the bytes were damaged on their way."""


class LimitError(MessageError):
    """More bytes, coordinates, tensors, groups or memory than the limits allow."""


class DuplicateError(MessageError):
    """A name stands twice where names must be unique."""


class FieldError(MessageError):
    """A field has a value that it must not have."""


class StreamError(MessageError):
    """A compressed block is not valid, or not of the length that it must have."""


class SupportCodingError(MessageError):
    """A support contradicts itself."""


class NumberError(MessageError):
    """A scale, step, level or weight is not a usable number."""


class ModelError(MessageError):
    """The message is for another model: a tensor has a name or shape that the schema has not."""


class UnknownReferenceError(MessageError, UnknownSupport):
    """A reference to a support that this side does not hold."""


class UnknownBaseError(MessageError, UnknownSupport):
    """A difference against values that this side does not hold."""


def require(condition: object, fault: type[MessageError], place: str, problem: str) -> None:
    """Raise ``fault`` unless ``condition`` holds."""
    if not condition:
        raise fault(place, problem)
