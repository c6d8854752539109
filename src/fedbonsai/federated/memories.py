"""One client's memory as bytes."""

import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fedbonsai.core.errors import CheckpointError, SupportError
from fedbonsai.core.state import Memory
from fedbonsai.core.support import pack_bits, unpack_bits


def packed_bits(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Tensors as a file takes them, eight bits of a mask in a byte, and the shapes of the masks among them."""
    masks = {name: list(one.shape) for name, one in tensors.items() if one.dtype == torch.bool}
    # Views of one flat vector share memory, which the file format refuses.
    return {name: pack_bits(one) if name in masks else one.contiguous().clone() for name, one in tensors.items()}, masks


def memory_to_bytes(memory: Memory) -> bytes:
    """One client's memory as bytes, for a process or a device that keeps it."""
    tensors, masks = packed_bits(memory.tensors)
    facts = {"numbers": dict(memory.numbers), "order": list(tensors), "masks": masks}
    return save_tensors(tensors, {name: json.dumps(fact) for name, fact in facts.items()})


def memory_from_bytes(data: bytes) -> Memory:
    """Undo `memory_to_bytes`.

    Raises:
        CheckpointError: The bytes are damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = load_tensors(data)
        tensors |= {name: unpack_bits(tensors[name], shape) for name, shape in json.loads(metadata["masks"]).items()}
        return Memory({name: tensors[name] for name in json.loads(metadata["order"])}, json.loads(metadata["numbers"]))
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, SupportError) as error:
        raise CheckpointError(f"a client's memory must be whole, it is damaged: {error}") from error
