"""What is read off a module: roles, neurons, and what has none."""

import pytest
from torch import nn

from fedbonsai.core.layout import Slot, Units
from fedbonsai.learning.layout import layout_of


def units(module):
    return {slot.name: slot.units for slot in layout_of(module).slots}


def test_convolutions_norms_and_linear_layers():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))
    filters = Units("0", 8)
    assert layout_of(module).slots == (
        Slot("0.weight", (8, 3, 3, 3), prunable=True, units=filters),
        Slot("0.bias", (8,), units=filters),
        Slot("1.weight", (8,)),
        Slot("1.bias", (8,)),
        Slot("4.weight", (10, 32), prunable=True),
        Slot("4.bias", (10,)),
        Slot("1.running_mean", (8,), buffer=True),
        Slot("1.running_var", (8,), buffer=True),
    )


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_all_tensors_of_a_recurrent_layer_and_direction_share_its_neurons(kind, gates):
    module = nn.Sequential(kind(4, 6, num_layers=2, bidirectional=True), nn.Linear(12, 2))
    found = units(module)
    for layer in ("0", "0_reverse", "1", "1_reverse"):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            assert found.pop(f"0.{name}_l{layer}") == Units(f"0.{layer}", 6, gates)
    assert found == {"1.weight": None, "1.bias": None}


def test_a_projected_recurrent_layer_has_no_neurons_to_prune():
    assert not any(units(nn.Sequential(nn.LSTM(4, 6, proj_size=2), nn.Linear(2, 2))).values())


def test_a_module_that_is_itself_a_layer_is_the_output():
    assert units(nn.Linear(3, 2)) == {"weight": None, "bias": None}
    assert units(nn.LayerNorm(3)) == {"weight": None, "bias": None}


class Tied(nn.Module):
    def __init__(self, *, output: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        if not output:
            self.out = nn.Linear(4, 2)


def test_tied_weights_are_one_tensor_whose_neurons_stay_if_they_are_outputs():
    assert units(Tied(output=False))["first.weight"] == Units("second", 4)
    assert units(Tied(output=True)) == {"first.weight": None, "first.bias": Units("first", 4), "second.bias": None}


def test_an_embedding_tied_to_the_output_stays_whole():
    module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    module[2].weight = module[0].weight
    assert units(module) == {"0.weight": None, "1.weight": Units("1", 4), "1.bias": Units("1", 4)}
    assert layout_of(module).prunable == ("0.weight", "1.weight")


def test_buffers_that_are_not_saved_or_not_numbers_are_no_part_of_the_model():
    module = nn.Linear(2, 2)
    module.register_buffer("mask", module.weight > 0)
    module.register_buffer("cache", module.weight.detach(), persistent=False)
    module.register_buffer("scale", module.bias.detach())
    assert [slot.name for slot in layout_of(module).slots if slot.buffer] == ["scale"]
