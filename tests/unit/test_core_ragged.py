import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbonsai.core.ragged import Ragged


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6))
def test_lists_come_back_as_they_were(lists):
    made = Ragged.of(torch.tensor(one, dtype=torch.int64) for one in lists)
    assert [one.tolist() for one in made] == lists
    assert [one.tolist() for one in made[-2:]] == lists[-2:]
    assert made.lengths.tolist() == [len(one) for one in lists]
    assert len(made) == len(lists)


def test_there_is_nothing_beyond_the_last_list():
    with pytest.raises(IndexError):
        Ragged.of([torch.tensor([1])])[1]
