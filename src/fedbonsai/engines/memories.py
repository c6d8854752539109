"""What simulated clients keep between rounds. What a round wrote counts once the round has accepted it."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping

from fedbonsai.core.state import Memory
from fedbonsai.federated.client import Client
from fedbonsai.federated.memories import memory_from_bytes, memory_to_bytes
from fedbonsai.federated.store import Store


class Memories(MutableMapping[int, Memory]):
    """A mapping from client to memory whose writes are provisional until `settle`.

    Attributes:
        store: What counts.
    """

    def __init__(self) -> None:
        self.store = Store()

    def __getitem__(self, client: int) -> Memory:
        return self.store[client]

    def __setitem__(self, client: int, memory: Memory) -> None:
        if memory:  # an empty one takes no room
            self.store.write(client, memory_to_bytes(memory))

    def __delitem__(self, client: int) -> None:
        raise NotImplementedError("what a client keeps is replaced, not deleted")

    def __iter__(self) -> Iterator[int]:
        return iter(self.store)

    def __len__(self) -> int:
        return len(self.store)

    def encoded(self, client: int) -> bytes:
        """What a client keeps, as `serve` takes it."""
        return self.store.read(client) if client in self.store else memory_to_bytes(Memory())

    def put(self, client: int, memory: bytes) -> None:
        """Write what `serve` returned of a client's memory."""
        if memory:
            self.store.write(client, memory)

    def settle(self, accepted: Collection[int]) -> None:
        """Keep what accepted clients wrote in this round; forget the rest. See `Store.settle`."""
        self.store.settle(accepted)

    def restore(self, memories: Mapping[int, Memory]) -> None:
        """Begin again with what a checkpoint holds."""
        self.store = memories if isinstance(memories, Store) else Store.of(memories)


def serve(client: Client, number: int, task: bytes, memory: bytes) -> tuple[bytes, bytes]:
    """Serve one task in a worker, which keeps nothing itself.

    Args:
        client: What serves.
        number: Whose task it is.
        task: The encoded task.
        memory: What that client remembers, as bytes.

    Returns:
        The encoded answer, and what the client remembers now; empty when that has not changed, or is nothing.
    """
    before = memory_from_bytes(memory)
    client.memories = written = {number: before}
    data = client.serve(task)
    after = written[number]
    return data, memory_to_bytes(after) if after and after is not before else b""
