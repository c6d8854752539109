"""Partitions: nobody shares an example, the statistics are those asked for, bad requests are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.core.errors import ConfigError, DataError
from fedbonsai.data.dataset import Dataset
from fedbonsai.data.info import IMAGE_DEFAULTS, SCHEMES
from fedbonsai.data.partition import Options, partition
from fedbonsai.data.schemes import dirichlet, iid, natural, shards
from fedbonsai.learning.task import Pool


def dataset(labels=None, natural=None):
    count = len(labels if natural is None else natural)
    pool = Pool(torch.zeros(count, 1), torch.zeros(count))
    return Dataset("own", "cross_entropy", 10, (1,), pool, pool, IMAGE_DEFAULTS, labels, natural)


def balanced(count, classes=10):
    return np.arange(count) % classes


def class_counts(labels, positions):
    return np.stack([np.bincount(labels[own], minlength=labels.max() + 1) for own in positions])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_disjoint_sorted_positions(scheme):
    data = dataset(balanced(1000), natural=balanced(1000, 7))
    positions = partition(data, scheme, clients=7, seed=1)
    assert len(positions) == 7
    for own in positions:
        assert own.dtype == torch.int64
        assert len(own) > 0
        assert bool((own.diff() > 0).all())
    together = torch.cat(list(positions))
    assert len(together) == len(together.unique())
    assert scheme == "shards" or len(together) == 1000


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "shards"])
def test_the_seed_decides(scheme):
    data = dataset(balanced(500))
    one, same, other = (partition(data, scheme, clients=5, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, same))
    assert not all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(one, other, strict=True))


@given(count=st.integers(1, 60), clients=st.integers(1, 12), seed=st.integers(0, 9))
def test_iid_deals_out_everything_evenly(count, clients, seed):
    sizes = [len(own) for own in iid(count, clients, np.random.default_rng(seed))]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_concentration_moves_between_few_classes_and_equal_shares():
    labels = balanced(10_000)
    few, equal = (
        class_counts(labels, dirichlet(labels, 10, np.random.default_rng(0), concentration, 1))
        for concentration in (0.05, 1000.0)
    )
    assert np.median((few > 100).sum(axis=1)) <= 2
    assert np.abs(equal - 100).max() < 20


def test_shares_have_the_variance_of_the_distribution():
    # A share of Dirichlet(a, ..., a) over k clients has mean 1/k and variance (k-1) / (k^2 (k a + 1)).
    labels = balanced(200_000, classes=200)
    counts = class_counts(labels, dirichlet(labels, 8, np.random.default_rng(3), 0.5, 1))
    shares = counts / 1000
    assert abs(shares.mean() - 1 / 8) < 1e-9
    assert shares.var() == pytest.approx(7 / (64 * 5), rel=0.1)


def test_dirichlet_draws_again_until_every_client_has_enough():
    labels = balanced(200)

    def smallest(min_size, seed):
        return min(map(len, dirichlet(labels, 10, np.random.default_rng(seed), 0.5, min_size)))

    first = [smallest(1, seed) for seed in range(30)]
    assert min(first) < 8
    assert all(smallest(8, seed) >= 8 for seed in range(30))


def test_dirichlet_gives_up_with_advice():
    data = dataset(balanced(1000))
    with pytest.raises(ConfigError, match=r"each of 50 clients must get at least 19 .*11 draws.*take fewer clients"):
        partition(data, "dirichlet", clients=50, seed=0, options=Options(min_size=19))


def test_extreme_concentration_leaves_clients_empty_and_says_so():
    with pytest.raises(ConfigError, match="larger concentration"):
        partition(dataset(balanced(100)), "dirichlet", clients=50, seed=0, options=Options(concentration=1e-6))


def test_one_class_is_fine():
    labels = np.full(100, 3)
    for scheme in ("dirichlet", "shards"):
        assert len(partition(dataset(labels), scheme, clients=4, seed=0)) == 4


def test_shards_are_equal_and_hold_few_classes():
    labels = np.random.default_rng(0).permutation(balanced(1003))
    positions = shards(labels, 10, np.random.default_rng(0), per_client=2)
    assert {len(own) for own in positions} == {2 * (1003 // 20)}
    assert (class_counts(labels, positions) > 0).sum(axis=1).max() <= 4


def test_natural_keeps_the_largest_ids_in_order():
    ids = np.array(["d", "a", "c", "b", "a", "c", "d"])
    assert [own.tolist() for own in natural(ids)] == [[1, 4], [3], [2, 5], [0, 6]]
    assert [own.tolist() for own in natural(ids, clients=2)] == [[1, 4], [2, 5]]


def test_no_number_of_clients_means_all_natural_ones():
    data = dataset(natural=balanced(20, 4))
    assert len(partition(data, "natural", clients=None, seed=0)) == 4
    with pytest.raises(ConfigError, match="needs a number of clients"):
        partition(data, "iid", clients=None, seed=0)


@pytest.mark.parametrize("clients", [0, -1, 21])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_more_clients_than_examples_are_refused(scheme, clients):
    data = dataset(balanced(20), natural=balanced(20, 4))
    with pytest.raises(ConfigError, match="clients must be 1 to 20, the training examples of 'own'"):
        partition(data, scheme, clients=clients, seed=0)


@pytest.mark.parametrize(
    ("scheme", "clients", "message"),
    [
        ("dirichelt", 2, "unknown partition 'dirichelt'; did you mean 'dirichlet'"),
        ("natural", 5, "at most 4, the ids of the data set, got 5"),
        ("shards", 15, "15 clients with 2 shards need at least 30 examples, got 20"),
    ],
)
def test_refusals(scheme, clients, message):
    data = dataset(balanced(20), natural=balanced(20, 4))
    with pytest.raises(ConfigError, match=message):
        partition(data, scheme, clients=clients, seed=0)


def test_a_scheme_says_what_the_data_set_lacks():
    with pytest.raises(ConfigError, match="needs client ids, but data set 'own' has none"):
        partition(dataset(balanced(20)), "natural", clients=2, seed=0)
    with pytest.raises(ConfigError, match="needs labels, but data set 'own' has none"):
        partition(dataset(natural=balanced(20)), "shards", clients=2, seed=0)


@pytest.mark.parametrize("bad", [{"concentration": 0.0}, {"concentration": np.inf}, {"shards": 0}, {"min_size": 0}])
def test_options_out_of_range(bad):
    with pytest.raises(ConfigError, match="must be"):
        Options(**bad)


class RoundRobin:
    """The least that a partitioner of flwr-datasets has."""

    def __init__(self, clients, column="label"):
        self.num_partitions = clients
        self.column = column
        self._dataset = None

    @property
    def dataset(self):
        return self._dataset

    @dataset.setter
    def dataset(self, value):
        if self._dataset is not None:
            raise ValueError("The dataset should be assigned only once")
        self._dataset = value
        self.values = value[self.column][:]

    def load_partition(self, partition_id):
        rows = [row for row, value in enumerate(self.values) if value % self.num_partitions == partition_id]
        return self._dataset.select(rows)


def test_a_partitioner_object_decides_by_label():
    pytest.importorskip("datasets")
    positions = partition(dataset(balanced(12, 4)), RoundRobin(2), clients=None, seed=0)
    assert [own.tolist() for own in positions] == [[0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11]]


def test_a_partitioner_object_decides_by_client():
    pytest.importorskip("datasets")
    data = dataset(balanced(6, 2), natural=np.array([0, 0, 0, 1, 1, 1]))
    positions = partition(data, RoundRobin(2, "client_id"), clients=2, seed=0)
    assert [own.tolist() for own in positions] == [[0, 1, 2], [3, 4, 5]]


def test_an_empty_client_of_a_partitioner_object_is_named():
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match=r"each client of a RoundRobin must get examples, got none for \[2, 3\]"):
        partition(dataset(balanced(10, 2)), RoundRobin(4), clients=None, seed=0)


def test_a_partitioner_object_must_be_fresh_and_fit():
    pytest.importorskip("datasets")
    used = RoundRobin(2)
    partition(dataset(balanced(10)), used, clients=2, seed=0)
    with pytest.raises(ConfigError, match=r"fresh RoundRobin .*assigned only once"):
        partition(dataset(balanced(10)), used, clients=2, seed=0)
    with pytest.raises(ConfigError, match="by the columns label, position"):
        partition(dataset(balanced(10)), RoundRobin(2, "client_id"), clients=2, seed=0)
    with pytest.raises(ConfigError, match="clients must be 2, as the RoundRobin says, got 3"):
        partition(dataset(balanced(10)), RoundRobin(2), clients=3, seed=0)
