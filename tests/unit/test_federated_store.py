import errno
import json
import math

import pytest
import torch
from torch import tensor

from fedbonsai.core.errors import CheckpointError
from fedbonsai.core.state import Memory
from fedbonsai.federated.memories import memory_to_bytes
from fedbonsai.federated.store import Store


def memory(value: float, size: int = 3) -> Memory:
    return Memory({"x": torch.full((size,), value), "mask": tensor([True, False, True])}, {"rounds": int(value)})


def held(store: Store) -> dict[int, float]:
    return {client: float(one.tensors["x"][0]) for client, one in store.items()}


def write(store: Store, client: int, value: float, size: int = 3) -> None:
    store.write(client, memory_to_bytes(memory(value, size)))


def test_what_was_written_counts_when_the_round_has_accepted_it():
    store = Store()
    assert (dict(store), 4 in store) == ({}, False)
    write(store, 4, 1.0)
    write(store, 2, 2.0)
    assert len(store) == 0
    store.settle([2, 9])
    assert held(store) == {2: 2.0}
    write(store, 2, 3.0)
    store.settle([4])
    assert (held(store), list(store)) == ({2: 2.0}, [2])
    assert store[2].tensors["mask"].tolist() == [True, False, True]
    assert store[2].numbers == {"rounds": 2}
    with pytest.raises(KeyError):
        store[4]


def test_masks_take_a_bit_for_each_weight():
    mask = Memory({"held/0": torch.rand(80_000, generator=torch.Generator().manual_seed(0)) < 0.5})
    store = Store.of({7: mask})
    assert len(store.read(7)) < 80_000 / 8 + 500
    assert torch.equal(store[7].tensors["held/0"], mask.tensors["held/0"])


def test_a_checkpoint_is_what_was_there_when_it_was_written(tmp_path):
    store = Store()
    write(store, 1, 1.0)
    write(store, 5, 5.0)
    store.settle([1, 5])
    facts = json.loads(json.dumps(store.save(tmp_path, 1)))
    write(store, 1, 8.0)
    write(store, 6, 6.0)
    store.settle([1])  # a round whose checkpoint is never written
    write(store, 5, 9.0)  # one that is killed within

    again = Store.opened(tmp_path, facts)
    assert held(again) == {1: 1.0, 5: 5.0}
    write(again, 1, 2.0)
    again.settle([1])
    more = again.save(tmp_path, 2)
    assert more["file"] == facts["file"]
    assert held(Store.opened(tmp_path, more)) == {1: 2.0, 5: 5.0}


def test_each_checkpoint_writes_what_is_new_and_copies_the_rest_when_half_of_a_file_is_of_no_use(tmp_path, monkeypatch):
    monkeypatch.setattr("fedbonsai.federated.store.WASTE", 0)
    store, lengths, files = Store.of({one: memory(one) for one in range(50)}), [], []
    each = len(store.read(0))
    for turn in range(1, 40):
        for client in range(5):
            write(store, client, turn)
        store.settle(range(5))
        facts = store.save(tmp_path, turn)
        lengths.append(facts["bytes"])
        files.append(facts["file"])
    assert max(lengths) < 2.2 * 50 * (each + 16)
    assert 4 < lengths[1] / each - lengths[0] / each < 7
    assert 2 < len(set(files)) < 8
    assert held(Store.opened(tmp_path, facts)) == {one: 39.0 if one < 5 else float(one) for one in range(50)}


def test_a_store_without_a_directory_lets_go_of_what_was_replaced(monkeypatch):
    monkeypatch.setattr("fedbonsai.federated.store.WASTE", 1000)
    store = Store()
    for turn in range(50):
        write(store, 0, turn, size=1000)
        store.settle([0])
        assert store._log.length < 4 * len(store.read(0))
    assert held(store) == {0: 49.0}


@pytest.mark.parametrize("place", [0, 8, 40, -1])
def test_a_damaged_file_is_refused(tmp_path, place):
    facts = Store.of({1: memory(1.0), 2: memory(2.0)}).save(tmp_path, 3)
    path = tmp_path / facts["file"]
    data = bytearray(path.read_bytes())
    data[place] ^= 0x41
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"clients-3.bin must hold what clients keep, it is (damaged|cut short)"):
        Store.opened(tmp_path, facts)


def test_a_file_that_is_cut_short_or_gone_is_refused(tmp_path):
    facts = Store.of({1: memory(math.pi)}).save(tmp_path, 3)
    path = tmp_path / facts["file"]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="it is cut short"):
        Store.opened(tmp_path, facts)
    path.unlink()
    with pytest.raises(CheckpointError, match="it cannot be read"):
        Store.opened(tmp_path, facts)


def test_a_full_disk_ends_the_round_and_drops_no_client(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store.of({1: memory(1.0)})
    facts = store.save(tmp_path, 1)
    with monkeypatch.context() as disk:
        disk.setattr("os.pwrite", full)
        write(store, 1, 2.0)
    with pytest.raises(CheckpointError, match=r"clients-1.bin: .*No space left on device; make room and resume"):
        store.settle([1])
    assert held(store) == {1: 1.0}
    write(store, 1, 3.0)
    store.settle([1])
    assert held(Store.opened(tmp_path, store.save(tmp_path, 2))) == {1: 3.0}
    assert held(Store.opened(tmp_path, facts)) == {1: 1.0}
