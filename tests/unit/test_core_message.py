"""Messages: what a group keeps of its tensors, and what can be asked of it."""

import pytest
import torch
from torch import tensor

from fedbonsai.core.errors import SupportError
from fedbonsai.core.message import Message, Part, group
from fedbonsai.core.support import Support

LEFT = Support.masked(tensor([[True, False], [True, False]]))


def test_a_group_cuts_tensors_to_their_supports_and_leaves_others_whole():
    weights = {"a": tensor([[1.0, 2.0], [3.0, 4.0]]), "b": tensor([5.0])}
    parts = group(weights, {"a": LEFT})
    assert parts["a"].values.tolist() == [1.0, 3.0]
    assert parts["a"].support is LEFT
    assert parts["b"].support == Support.dense((1,))
    assert {name: one.tolist() for name, one in Message({"weights": parts}).dense().items()} == {
        "a": [[1.0, 0.0], [3.0, 0.0]],
        "b": [5.0],
    }
    assert parts["a"].dense(fill=-1.0).tolist() == [[1.0, -1.0], [3.0, -1.0]]


def test_values_that_are_zero_are_present():
    support = Support.masked(tensor([True, True, False]))
    part = group({"w": tensor([0.0, 1.0, 2.0])}, {"w": support})["w"]
    assert part.values.tolist() == [0.0, 1.0]


def test_a_group_leaves_the_graph():
    weight = torch.ones(2, requires_grad=True)
    assert not group({"w": weight * 2})["w"].values.requires_grad


def test_supports_name_only_what_is_not_dense():
    message = Message({"weights": group({"a": torch.ones(2, 2), "b": torch.ones(1)}, {"a": LEFT}), "scores": {}})
    assert message.supports() == {"a": LEFT}
    assert message.supports("scores") == message.dense("scores") == {}


def test_more_numbers_make_another_message():
    message = Message(numbers={"loss": 1.0, "steps": 2.0}, weight=3.0, round=4, client=5, stage="probe", note="why")
    richer = message.with_numbers(loss=9.0, flops=8.0)
    assert richer.numbers == {"loss": 9.0, "steps": 2.0, "flops": 8.0}
    assert message.numbers == {"loss": 1.0, "steps": 2.0}
    assert (richer.weight, richer.round, richer.client, richer.stage, richer.note) == (3.0, 4, 5, "probe", "why")


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_a_part_holds_a_vector_of_exactly_what_is_present(shape):
    with pytest.raises(SupportError, match="a part needs 2 values in a vector, got shape"):
        Part(torch.ones(shape), LEFT)
