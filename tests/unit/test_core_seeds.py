"""Seeds name what is drawn: the same in every process, different for every purpose, and no one else's."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbonsai.core.seeds import generator, seed_of, seeded

DRAW = "from fedbonsai.core.seeds import *; print(torch.rand(2, generator=generator(5, 'split', 1, 2)).tolist())"


def test_a_fresh_process_draws_the_same():
    fresh = os.environ | {"PYTHONHASHSEED": "77"}
    drawn = subprocess.run([sys.executable, "-c", DRAW], env=fresh, capture_output=True, text=True, check=True).stdout
    assert drawn.strip() == str(torch.rand(2, generator=generator(5, "split", 1, 2)).tolist())


names = st.tuples(st.integers(0, 2**63 - 1), st.sampled_from(["split", "batches", "1"]), st.integers(0), st.integers(0))


@settings(deadline=None)
@given(names, names)
def test_every_argument_matters(one, two):
    assert (seed_of(*one) == seed_of(*two)) == (one == two)
    assert 0 <= seed_of(*one) < 2**63


def test_neighbouring_numbers_do_not_run_together():
    assert seed_of(1, "a", round_=1, client=11) != seed_of(1, "a", round_=11, client=1)


def test_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first, second = (torch.rand(3, generator=generator(0, "batches")) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seeded_block_draws_its_own_and_gives_the_callers_state_back():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        with seeded(0, "model"):
            first = torch.rand(3)
        assert torch.equal(torch.rand(1), expected)
        with seeded(0, "model"):
            assert torch.equal(torch.rand(3), first)
        with seeded(0, "model", client=1):
            assert not torch.equal(torch.rand(3), first)


def test_the_state_comes_back_after_an_error_too():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(0, "model"):
        {}[torch.rand(1)]
    assert torch.equal(torch.get_rng_state(), before)
