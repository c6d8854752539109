"""What one worker process on another machine serves clients with: a client object, made of what was sent there once."""

import importlib
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.ragged import Ragged
from fedbonsai.engines.memories import serve
from fedbonsai.federated.client import Client, Coding
from fedbonsai.federated.method import Method
from fedbonsai.learning.bench import Bench
from fedbonsai.learning.task import Pool, PreparedTask
from fedbonsai.learning.work import NormPolicy, Work


@dataclass(frozen=True, eq=False)
class Shared:
    """A tensor that lies once on a machine: Ray's object store shares arrays of NumPy, but copies tensors.

    Attributes:
        array: Its bytes.
        dtype: Its type.
        shape: Its shape.
    """

    array: np.ndarray
    dtype: torch.dtype
    shape: tuple[int, ...]

    @staticmethod
    def of(tensor: Tensor) -> "Shared":
        """Get a tensor ready for the object store."""
        flat = tensor.detach().contiguous().reshape(-1)
        return Shared(flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))

    def tensor(self) -> Tensor:
        """The tensor, in the memory of the array; it must not be written to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch knows no tensors for reading alone, and says so
            return torch.from_numpy(self.array).view(self.dtype).view(self.shape)


@dataclass(frozen=True, eq=False)
class Kit:
    """What a client object is made of. A bench itself cannot travel: its module's parameters are views of one vector.

    Attributes:
        method: The method.
        task: What is learned, without its data.
        inputs: Those of the pool of all clients.
        targets: Theirs.
        positions: Where the clients' examples stand in the pool, all clients' in a row.
        bounds: Where each client's begin in them.
        work: The local work.
        seed: The seed of the run.
        kernel: How training is computed.
        norm_policy: See `Client`.
        coding: See `Client`.
    """

    method: Method
    task: PreparedTask
    inputs: Shared
    targets: Shared
    positions: Shared
    bounds: Shared
    work: Work
    seed: int
    kernel: str
    norm_policy: NormPolicy
    coding: Coding

    @staticmethod
    def of(client: Client) -> "Kit":
        """Take a client object apart. The test set stays behind: no client looks at it."""
        task = client.bench.task
        nothing, none = torch.empty(0), replace(task.splits, positions=Ragged.of([]), _drawn={})
        return Kit(
            client.method,
            replace(task, pool=Pool(nothing, nothing, task.pool.prepare), splits=none, test=Pool(nothing, nothing)),
            Shared.of(task.pool.inputs),
            Shared.of(task.pool.targets),
            Shared.of(task.splits.positions.flat),
            Shared.of(task.splits.positions.bounds),
            client.bench.work,
            client.bench.seed,
            client.bench.kernel,
            client.norm_policy,
            client.coding,
        )

    def client(self) -> Client:
        """A client object that does the same as the one that was taken apart, bit for bit."""
        positions = Ragged(self.positions.tensor(), self.bounds.tensor())
        splits = replace(self.task.splits, positions=positions, _drawn={})
        pool = Pool(self.inputs.tensor(), self.targets.tensor(), self.task.pool.prepare)
        bench = Bench(replace(self.task, pool=pool, splits=splits), self.work, self.seed, kernel=self.kernel)
        return Client(self.method, bench, self.norm_policy, self.coding)


class Server:
    """Serves tasks with one thread; becomes an actor."""

    def begin(self, wanted: Mapping[str, str], kit: Sequence[object]) -> dict[str, str]:
        """Get ready, unless this machine has other versions than the driver.

        Args:
            wanted: The driver's `versions`.
            kit: A reference to a `Kit`, alone in a list: it is only read when the versions are right.

        Returns:
            The versions here, and what else should be alike: ``machine``, ``instructions``.
        """
        torch.set_num_threads(1)
        if versions() == wanted:
            loaded: Kit = importlib.import_module("ray").get(kit[0])
            self._client = loaded.client()
        return {**versions(), "machine": platform.node(), "instructions": instructions()}

    def serve(self, client: int, task: bytes, memory: bytes) -> tuple[bytes, bytes]:
        """Do what `memories.serve` says."""
        return serve(self._client, client, task, memory)


def versions() -> dict[str, str]:
    """What must be equal on all machines."""
    return {"python": platform.python_version(), "torch": torch.__version__, "fedbonsai": version("fedbonsai")}


def instructions() -> str:
    """The widest vector instructions that torch uses here; others add up in another order, to other last bits."""
    return str(torch.backends.cpu.get_cpu_capability())
