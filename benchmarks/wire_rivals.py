"""The formats that benchmarks/wire.py compares, each as a pair of functions."""

import io
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
import scipy.sparse
import torch
import zstandard
from numpy.typing import NDArray
from wire_models import Floats, Masks, Model, held_by, message_of

from fedbonsai import wire


@dataclass(frozen=True)
class Rival:
    """A way to write a model and read it back."""

    name: str
    write: Callable[[], bytes]
    read: Callable[[bytes], object]

    def times(self, blob: bytes) -> tuple[float, float]:
        """CPU seconds of writing, and of reading."""
        start = time.process_time()
        self.write()
        middle = time.process_time()
        self.read(blob)
        return middle - start, time.process_time() - middle


def rivals(model: Model, masks: Masks) -> list[Rival]:
    """All that are compared; each writes the same model."""
    message = message_of(model, masks)
    held = held_by(message)
    torches = {name: torch.from_numpy(weights) for name, weights in model.items()}
    masked = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    ours = [
        Rival(
            f"fedbonsai {values}{', masks known' if known else ''}",
            lambda values=values, known=known: wire.encode(message, values=values, held=known),
            lambda data, known=known: wire.decode(data, held=known),
        )
        for values in ("fp32", "bf16")
        for known in (None, held)
    ]
    dumped = Rival("fedbonsai dumps, from and to dense arrays", lambda: wire.dumps(torches, masked), wire.loads)
    return [*ours, dumped, *_dense_rivals(model), *_sparse_rivals(model)]


def _dense_rivals(model: Model) -> list[Rival]:
    def compressed(level: int) -> Rival:
        return Rival(
            f"safetensors + zstd {level}",
            lambda: zstandard.compress(safetensors.numpy.save(model), level),
            lambda data: safetensors.numpy.load(zstandard.decompress(data)),
        )

    return [
        Rival("np.save", lambda: _np_save(model), lambda data: _np_load(data, len(model))),
        Rival("safetensors", lambda: safetensors.numpy.save(model), safetensors.numpy.load),
        Rival("pickle", lambda: pickle.dumps(model, protocol=5), pickle.loads),
        compressed(1),
        compressed(3),
    ]


def _sparse_rivals(model: Model) -> list[Rival]:
    return [
        Rival("SciPy CSR npz", lambda: _csr_save(model), _csr_load),
        Rival("torch sparse_coo", lambda: _coo_save(model), _coo_load),
    ]


def _np_save(model: Model) -> bytes:
    file = io.BytesIO()
    for weights in model.values():
        np.save(file, weights)
    return file.getvalue()


def _np_load(data: bytes, count: int) -> list[Floats]:
    file = io.BytesIO(data)
    return [np.load(file) for _ in range(count)]


def _csr_save(model: Model) -> bytes:
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, weights in model.items():
        csr = scipy.sparse.csr_array(weights.reshape(len(weights), -1))
        arrays |= {f"{name}/data": csr.data, f"{name}/indices": csr.indices}
        arrays |= {f"{name}/indptr": csr.indptr, f"{name}/shape": np.array(weights.shape)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _csr_load(data: bytes) -> Model:
    arrays = np.load(io.BytesIO(data))
    model = {}
    for name in {key.rsplit("/", 1)[0] for key in arrays.files}:
        shape = tuple(arrays[f"{name}/shape"])
        parts = tuple(arrays[f"{name}/{part}"] for part in ("data", "indices", "indptr"))
        csr = scipy.sparse.csr_array(parts, shape=(shape[0], math.prod(shape[1:])))
        model[name] = csr.toarray().reshape(shape)
    return model


def _coo_save(model: Model) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(one).to_sparse() for name, one in model.items()}, file)
    return file.getvalue()


def _coo_load(data: bytes) -> dict[str, torch.Tensor]:
    model = torch.load(io.BytesIO(data), weights_only=True)
    return {name: one.to_dense() for name, one in model.items()}
