"""What a decoder is willing to do for bytes from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedbonsai.wire.errors import LimitError, ModelError, require


@dataclass(frozen=True)
class Limits:
    """Bounds that a decoder checks before it allocates anything.

    Attributes:
        max_bytes: Of the message, and of all memory that decoding takes, added up.
        max_parameters: Coordinates of all tensors of all groups; also the size of one dimension.
        max_tensors: Tensors of all groups together.
        max_groups: Groups.
        schema: Shape by tensor name; a tensor of another name or shape is refused.
    """

    max_bytes: int = 2**30
    max_parameters: int = 2**26
    max_tensors: int = 4096
    max_groups: int = 16
    schema: Mapping[str, tuple[int, ...]] | None = None

    def admit(self, place: str, name: str, shape: Sequence[int]) -> None:
        """Refuse a tensor that the schema does not have.

        Raises:
            ModelError: The schema has no such name, or another shape.
        """
        if self.schema is None:
            return
        known = self.schema.get(name)
        expected = "no such tensor" if known is None else f"shape {tuple(known)}"
        require(
            known is not None and tuple(known) == tuple(shape),
            ModelError,
            place,
            f"a message for another model: got shape {tuple(shape)}, this model has {expected}",
        )


class Budget:
    """Memory that is left: what depends on outside bytes is paid for before it is allocated."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self, amount: int, place: str) -> None:
        """Take ``amount`` bytes.

        Raises:
            LimitError: Fewer are left.
        """
        if amount > self.left:
            raise LimitError(place, f"needs {amount} bytes of memory, {self.left} are left")
        self.left -= amount
