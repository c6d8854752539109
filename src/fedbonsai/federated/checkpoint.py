"""Everything that a run needs to go on, in one file that is replaced in one step.

What clients keep is in a second file, which only grows, as most of it stays what it was; the first says how much of it
counts (`store`).
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedbonsai.core.errors import CheckpointError, SupportError
from fedbonsai.core.held import Held, Packed
from fedbonsai.core.state import Memory, Setting, State
from fedbonsai.core.support import Support, unpack_bits
from fedbonsai.federated.ledger import Row
from fedbonsai.federated.memories import packed_bits
from fedbonsai.federated.store import Store, tidy

FILE = "state.safetensors"
FORMAT = 3


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
    memories = checkpoint.memories
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stored = memories if isinstance(memories, Store) else Store.of(memories)
        facts["clients"] = stored.save(directory, checkpoint.state.turn)
        text = json.dumps(facts)
        metadata = {"fedbonsai": text, "sha256": _digest(tensors, text)}
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(directory)
        tidy(directory, facts["clients"])
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
            "resume with the settings and the data that it was started with, or choose another directory"
        )
    try:
        found = _unpack(tensors, facts, setting)
        return replace(found, memories=Store.opened(directory, facts["clients"]) if facts["clients"] else {})
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
    owners = {"memory": state.memory, "optimizer": state.optimizer}
    for owner, memory in owners.items():
        tensors |= {f"{owner}/{name}": one for name, one in memory.tensors.items()}
    tensors, masks = packed_bits(tensors)
    tensors["held"], held = _pack_held(Held.of(state.held))
    facts = {
        "round": state.round,
        "turn": state.turn,
        "masks": masks,
        "order": list(tensors),  # the file sorts by name, and messages cost what the order of their tensors makes them
        "supports": {name: list(one.shape) for name, one in state.supports.items()},
        "held": held,
        "answered": [list(state.answered), list(state.answered.values())],
        "numbers": {owner: dict(memory.numbers) for owner, memory in owners.items()},
        "rows": list(checkpoint.rows),
        "seconds": checkpoint.seconds,
    }
    return tensors, facts


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
    state = State(
        setting,
        weights,
        {name: support(name, shape) for name, shape in facts["supports"].items()},
        facts["round"],
        facts["turn"],
        memory("memory"),
        memory("optimizer"),
        dict(everything.section("statistics").tensors),
        _unpack_held(tensors["held"], facts["held"]),
        dict(zip(*facts["answered"], strict=True)),
    )
    return Checkpoint(state, {}, tuple(facts["rows"]), facts["seconds"])


def _pack_held(held: Held) -> tuple[Tensor, dict[str, Any]]:
    """All masks that clients hold in a row, and which: of clients that hold the same, the masks are named once."""
    holdings = dict.fromkeys(held.clients.values())
    masks = dict.fromkeys(mask for one in holdings for mask in one.masks)
    shapes = dict.fromkeys(mask.shape for mask in masks)
    of_shape, of_mask, of_holding = ({one: at for at, one in enumerate(known)} for known in (shapes, masks, holdings))
    bits = bytearray().join(mask.bits for mask in masks)
    return torch.frombuffer(bits, dtype=torch.uint8) if bits else torch.empty(0, dtype=torch.uint8), {
        "shapes": [list(shape) for shape in shapes],
        "masks": [[mask.digest.hex(), of_shape[mask.shape]] for mask in masks],
        "holdings": [[of_mask[mask] for mask in one.masks] for one in holdings],
        "clients": [list(held.clients), [of_holding[one] for one in held.clients.values()]],
    }


def _unpack_held(bits: Tensor, facts: dict[str, Any]) -> Held:
    shapes = [tuple(shape) for shape in facts["shapes"]]
    sizes = [-(-math.prod(shapes[at]) // 8) for _, at in facts["masks"]]
    masks = [
        Packed(bytes.fromhex(digest), shapes[at], own.numpy().tobytes())
        for (digest, at), own in zip(facts["masks"], torch.split(bits, sizes), strict=True)
    ]
    return Held.restored(masks, facts["holdings"], dict(zip(*facts["clients"], strict=True)))


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
