import pytest
import torch
from torch import nn

from fedbonsai.learning.flops import count_uses


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(10, 4), nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 10)

    def forward(self, tokens):
        return self.head(self.lstm(self.embedding(tokens))[0])


def test_a_kernel_is_used_at_every_position_and_a_matrix_once():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.Flatten(), nn.Linear(72, 5)
    )
    uses = count_uses(model, lambda: model(torch.zeros(1, 3, 8, 8)))
    assert uses == {"0.weight": 64.0, "2.weight": 9.0, "4.weight": 1.0}


def test_a_recurrent_weight_is_used_at_every_step_and_an_embedding_never():
    model = Reader()
    uses = count_uses(model, lambda: model(torch.zeros(1, 7, dtype=torch.long)))
    assert uses["embedding.weight"] == 0.0
    assert uses["lstm.weight_ih_l0"] == uses["lstm.weight_hh_l0"] == pytest.approx(7.0)
    assert uses["head.weight"] == 7.0


def test_a_module_is_left_without_hooks_whatever_happens():
    model = nn.Linear(3, 2)
    with pytest.raises(RuntimeError):
        count_uses(model, lambda: model(torch.zeros(1, 4)))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
