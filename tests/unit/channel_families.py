"""Models of every family with an example each, and what the trace is told beside them."""

import torch
from torch import nn
from unit.channel_models import (
    Attention,
    Block,
    Causal,
    Decoder,
    Dense,
    Fused,
    Growing,
    Halves,
    InvertedResidual,
    Recurrent,
    Squeeze,
    Tied,
    UNet,
)

from fedbonsai.models.build import build


def image(channels=3, size=8):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def tokens():
    return torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(1))


def encoder(**options):
    layer = nn.TransformerEncoderLayer(8, 4, 12, dropout=0.0, batch_first=True, **options)
    return nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


def tied(attention):
    return Tied(Block(attention, 8))


def grouped(groups):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(groups, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5), nn.Linear(5, 2)
    )


def cells(kind, layers, **options):
    return lambda: (Recurrent(kind, layers, **options), tokens(), {})


FAMILIES = {
    "cnn": lambda: (build("cnn", input_shape=(1, 12, 12), classes=3, width=0.2), image(1, 12), {}),
    "lenet5": lambda: (build("lenet5", input_shape=(3, 16, 16), classes=3), image(3, 16), {}),
    "mlp": lambda: (build("mlp", input_shape=(6,), classes=2, width=0.1), torch.randn(2, 6), {}),
    "resnet, batch norm": lambda: (
        build("resnet18", input_shape=(3, 8, 8), classes=3, width=0.06, norm="batch"),
        image(),
        {},
    ),
    "resnet, group norm": lambda: (build("resnet18", input_shape=(3, 8, 8), classes=3, width=0.0625), image(), {}),
    "resnet, group norm evenly": lambda: (
        build("resnet18", input_shape=(3, 8, 8), classes=3, width=0.0625),
        image(),
        {"group_norm": "even"},
    ),
    "whole groups": lambda: (grouped(4), image(), {}),
    "channels of groups": lambda: (grouped(2), image(), {"group_norm": "even"}),
    "grouped convolution": lambda: (
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 3, groups=3), nn.ReLU(), nn.Conv2d(12, 2, 1)),
        image(),
        {},
    ),
    "depthwise": lambda: (
        nn.Sequential(InvertedResidual(3, 4, 2), InvertedResidual(4, 4, 2), nn.Conv2d(4, 2, 1)),
        image(),
        {},
    ),
    "unet": lambda: (UNet(), image(2), {}),
    "next token": lambda: (build("lstm", input_shape=(5,), classes=9, width=0.1), tokens(), {}),
    "lstm": cells(nn.LSTM, 1),
    "lstm of 2": cells(nn.LSTM, 2),
    "lstm of 3, no bias": cells(nn.LSTM, 3, bias=False),
    "lstm both ways": cells(nn.LSTM, 2, bidirectional=True),
    "lstm projected": cells(nn.LSTM, 2, proj_size=2),
    "gru": cells(nn.GRU, 1),
    "gru of 3 both ways": cells(nn.GRU, 3, bidirectional=True),
    "rnn": cells(nn.RNN, 2),
    "transformer": lambda: (encoder(), torch.randn(2, 5, 3), {}),
    "transformer, norm first": lambda: (encoder(norm_first=True), torch.randn(2, 5, 3), {}),
    "attention": lambda: (tied(Attention(8, 3, 2)), tokens(), {}),
    "attention, chunk": lambda: (tied(Fused(8, 3, 2, "chunk")), tokens(), {}),
    "attention, reshape": lambda: (tied(Fused(8, 3, 3, "reshape")), tokens(), {}),
    "sum over a concatenation": lambda: (Dense(), image(), {}),
    "squeeze and shuffle": lambda: (Squeeze(), image(), {}),
    "decoder": lambda: (Decoder(), torch.randn(2, 5), {}),
    "halves": lambda: (Halves(), image(), {}),
    "densely joined": lambda: (Growing(), image(), {}),
    "causal": lambda: (Causal(8, 4), tokens(), {}),
}
