"""The schemes against the real ``flwr-datasets``: equal generators give equal positions."""

import numpy as np
import pytest
import torch

from fedbonsai.core.errors import ConfigError
from fedbonsai.data.load import load
from fedbonsai.data.partition import partition
from fedbonsai.data.schemes import dirichlet, iid, natural, shards

flower = pytest.importorskip("flwr_datasets.partitioner", reason="needs flwr-datasets")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The specified min_partition_size"),
    pytest.mark.filterwarnings("ignore:Specifying null_placement in SortOptions:FutureWarning"),
]

LABELS = np.random.default_rng(0).integers(0, 10, 1003)


def positions_of(partitioner, **columns):
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"position": np.arange(len(LABELS)), **columns})
    return [sorted(partitioner.load_partition(one)["position"][:]) for one in range(partitioner.num_partitions)]


def as_lists(positions):
    return [sorted(own.tolist()) for own in positions]


@pytest.mark.parametrize(("concentration", "min_size"), [(0.1, 1), (0.5, 10), (0.5, 30), (100.0, 10)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dirichlet_is_theirs(concentration, min_size, seed):
    theirs = flower.DirichletPartitioner(10, "label", concentration, min_size, seed=seed)
    ours = dirichlet(LABELS, 10, np.random.default_rng(seed), concentration, min_size)
    assert as_lists(ours) == positions_of(theirs, label=LABELS)


def test_both_give_up_after_equally_many_draws():
    theirs = flower.DirichletPartitioner(10, "label", 0.1, 99, seed=0)
    with pytest.raises(ValueError, match="max number of attempts"):
        positions_of(theirs, label=LABELS)
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError):
        dirichlet(LABELS, 10, rng, 0.1, 99)
    assert rng.bit_generator.state == theirs._rng.bit_generator.state


@pytest.mark.parametrize("per_client", [1, 2, 3])
def test_shards_are_theirs(per_client):
    theirs = flower.ShardPartitioner(10, "label", num_shards_per_partition=per_client, seed=5)
    ours = shards(LABELS, 10, np.random.default_rng(5), per_client)
    assert as_lists(ours) == positions_of(theirs, label=LABELS)


def test_natural_is_theirs():
    ids = np.char.add("role ", LABELS.astype(str))
    assert as_lists(natural(ids)) == positions_of(flower.NaturalIdPartitioner("client_id"), client_id=ids)


def test_iid_sizes_are_theirs():
    ours = iid(len(LABELS), 7, np.random.default_rng(0))
    assert [len(own) for own in ours] == [len(own) for own in positions_of(flower.IidPartitioner(7))]


def test_any_of_their_objects_is_accepted():
    data = load("digits")
    for partitioner in (
        flower.IidPartitioner(5),
        flower.DirichletPartitioner(5, "label", 0.5),
        flower.SquarePartitioner(5),
        flower.LinearPartitioner(5),
    ):
        positions = partition(data, partitioner, clients=5, seed=0)
        assert torch.cat(positions).sort().values.tolist() == list(range(len(data.train)))


def test_their_errors_become_ours():
    data = load("digits")
    with pytest.raises(ConfigError, match="a fresh DirichletPartitioner must be able to spread"):
        partition(data, flower.DirichletPartitioner(5, "label", 0.5, min_partition_size=2000), clients=5, seed=0)
    with pytest.raises(ConfigError, match="by the columns label, position"):
        partition(data, flower.NaturalIdPartitioner("client_id"), clients=None, seed=0)
    with pytest.raises(ConfigError, match=r"a fresh IidPartitioner .*out of range"):
        partition(data, flower.IidPartitioner(1440), clients=None, seed=0)
