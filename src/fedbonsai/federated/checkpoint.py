"""Everything that a run needs to go on, in one file that is replaced in one step."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from safetensors.torch import save_file
from torch import Tensor

from fedbonsai.core.errors import CheckpointError, SupportError
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.support import Support, pack_bits, unpack_bits
from fedbonsai.federated.ledger import Row

FILE = "state.safetensors"
FORMAT = 2


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run between two rounds.

    Attributes:
        state: What the server knows.
        memories: What simulated clients keep.
        rows: The ledger so far.
        seconds: Time spent so far.
    """

    state: State
    memories: Mapping[int, Memory] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    seconds: float = 0.0


def save(directory: Path, checkpoint: Checkpoint, experiment: str) -> None:
    """Write a checkpoint so that at any moment either the old one or the new one is whole on disk.

    Args:
        directory: Where it goes; made when it is missing.
        checkpoint: The run.
        experiment: Digest of the experiment that it belongs to.

    Raises:
        CheckpointError: It cannot be written (a full disk, no permission); the last one still stands.
    """
    target = directory / FILE
    temporary = directory / f".{FILE}.{os.getpid()}"
    tensors, facts = _pack(checkpoint)
    facts["experiment"], facts["format"] = experiment, FORMAT
    text = json.dumps(facts)
    metadata = {"fedbonsai": text, "sha256": _digest(tensors, text)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(directory)
    except (OSError, SafetensorError) as error:
        kept = "the checkpoint of the round before is whole" if target.exists() else "there is none yet"
        raise CheckpointError(
            f"the checkpoint of round {checkpoint.state.round} cannot be written to {directory}: {error}; {kept}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def load(directory: Path, setting: Setting, experiment: str) -> Checkpoint | None:
    """Read a checkpoint; None when there is none.

    Args:
        directory: Where `save` wrote it.
        setting: The setting of the run, which is not in the file.
        experiment: Digest of the experiment that asks.

    Raises:
        CheckpointError: The file is damaged or cut short, or belongs to another experiment.
    """
    target = directory / FILE
    if not target.exists():
        return None
    try:
        with safe_open(target, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        facts = json.loads(metadata["fedbonsai"])
        whole = metadata["sha256"] == _digest(tensors, metadata["fedbonsai"]) and facts["format"] == FORMAT
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{target} must be a whole checkpoint, it is damaged: {error}") from error
    if not whole:
        raise CheckpointError(f"{target} must be a whole checkpoint, its checksum or format does not match")
    if facts["experiment"] != experiment:
        raise CheckpointError(
            f"{target} belongs to experiment {facts['experiment']}, not to {experiment}; "
            "resume with the settings it was started with, or choose another directory"
        )
    try:
        return _unpack(tensors, facts, setting)
    except (KeyError, TypeError, ValueError, SupportError) as error:
        raise CheckpointError(f"{target} must hold a run of this model; {error}") from error


def _pack(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Flatten a run into named tensors and facts that fit into JSON."""
    state = checkpoint.state
    tensors = {f"weights/{name}": one for name, one in state.weights.items()}
    tensors |= {f"statistics/{name}": one for name, one in state.statistics.items()}
    for name, support in state.supports.items():
        if support.mask is not None:
            tensors[f"supports/{name}/mask"] = support.mask
        for dim, one in enumerate(support.index or ()):
            tensors[f"supports/{name}/{dim}"] = one
    held = {one.digest.hex(): one.indicator() for supports in state.held.values() for one in supports}
    tensors |= {f"held/{digest}": mask for digest, mask in held.items()}
    owners = {"memory": state.memory, "optimizer": state.optimizer}
    owners |= {f"clients/{client}": memory for client, memory in checkpoint.memories.items()}
    for owner, memory in owners.items():
        tensors |= {f"{owner}/{name}": one for name, one in memory.tensors.items()}
    tensors, masks = _packed_bits(tensors)
    facts = {
        "round": state.round,
        "turn": state.turn,
        "masks": masks,
        "order": list(tensors),  # the file sorts by name, and messages cost what the order of their tensors makes them
        "supports": {name: list(one.shape) for name, one in state.supports.items()},
        "held": {str(client): [one.digest.hex() for one in supports] for client, supports in state.held.items()},
        "answered": [list(state.answered), list(state.answered.values())],
        "numbers": {owner: dict(memory.numbers) for owner, memory in owners.items()},
        "rows": list(checkpoint.rows),
        "seconds": checkpoint.seconds,
    }
    return tensors, facts


def _packed_bits(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Tensors as a file takes them, eight bits of a mask in a byte, and the shapes of the masks among them."""
    masks = {name: list(one.shape) for name, one in tensors.items() if one.dtype == torch.bool}
    # Views of one flat vector share memory, which the file format refuses.
    return {name: pack_bits(one) if name in masks else one.contiguous().clone() for name, one in tensors.items()}, masks


def _unpack(tensors: dict[str, Tensor], facts: dict[str, Any], setting: Setting) -> Checkpoint:
    tensors |= {name: unpack_bits(tensors[name], shape) for name, shape in facts["masks"].items()}
    everything = Memory({name: tensors[name] for name in facts["order"]})

    def memory(owner: str) -> Memory:
        return Memory(everything.section(owner).tensors, facts["numbers"][owner])

    def support(name: str, shape: list[int]) -> Support:
        parts = everything.section(f"supports/{name}").tensors
        return (
            Support.masked(parts["mask"])
            if "mask" in parts
            else Support.grid(shape, [parts[str(dim)] for dim in range(len(shape))])
        )

    weights = dict(everything.section("weights").tensors)
    strange = [name for name, one in weights.items() if setting.layout.shapes.get(name) != tuple(one.shape)]
    if strange:
        raise SupportError(f"{strange[0]} has shape {tuple(weights[strange[0]].shape)} in it and another one here")
    masks = {digest: Support.masked(mask) for digest, mask in everything.section("held").tensors.items()}
    state = State(
        setting,
        weights,
        {name: support(name, shape) for name, shape in facts["supports"].items()},
        facts["round"],
        facts["turn"],
        memory("memory"),
        memory("optimizer"),
        dict(everything.section("statistics").tensors),
        {int(client): tuple(masks[digest] for digest in digests) for client, digests in facts["held"].items()},
        dict(zip(*facts["answered"], strict=True)),
    )
    clients = [owner for owner in facts["numbers"] if owner.startswith("clients/")]
    memories = {int(owner.removeprefix("clients/")): memory(owner) for owner in clients}
    return Checkpoint(state, memories, tuple(facts["rows"]), facts["seconds"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    hasher = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        hasher.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        hasher.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def _sync(directory: Path) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def memory_to_bytes(memory: Memory) -> bytes:
    """One client's memory as bytes, for a process or a device that keeps it."""
    tensors, masks = _packed_bits(memory.tensors)
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
