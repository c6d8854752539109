"""What simulated clients keep between rounds. What a round wrote counts once the round has accepted it."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping

from fedbonsai.core.state import Memory
from fedbonsai.federated.checkpoint import memory_from_bytes, memory_to_bytes
from fedbonsai.federated.client import Client


class Memories(MutableMapping[int, Memory]):
    """A mapping from client to memory whose writes are provisional until `settle`."""

    def __init__(self) -> None:
        self._kept: dict[int, Memory] = {}
        self._written: dict[int, Memory] = {}

    def __getitem__(self, client: int) -> Memory:
        return self._kept[client]

    def __setitem__(self, client: int, memory: Memory) -> None:
        self._written[client] = memory

    def __delitem__(self, client: int) -> None:
        del self._kept[client]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def settle(self, accepted: Collection[int]) -> None:
        """Keep what accepted clients wrote in this round; forget the rest. An empty memory takes no room."""
        for client in accepted:
            if self._written.get(client):
                self._kept[client] = self._written[client]
        self._written.clear()

    def restore(self, memories: Mapping[int, Memory]) -> None:
        """Begin again with what a checkpoint holds."""
        self._kept, self._written = dict(memories), {}


def serve(client: Client, number: int, task: bytes, memory: bytes) -> tuple[bytes, bytes]:
    """Serve one task in a worker, which keeps nothing itself.

    Args:
        client: What serves.
        number: Whose task it is.
        task: The encoded task.
        memory: What that client remembers, as bytes.

    Returns:
        The encoded answer, and what the client remembers now; empty when that has not changed.
    """
    before = memory_from_bytes(memory)
    client.memories = written = {number: before}
    data = client.serve(task)
    after = written[number]
    return data, b"" if after is before else memory_to_bytes(after)
