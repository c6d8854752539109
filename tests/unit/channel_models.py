"""Small networks of every family, that share no code with the package's own."""

import math

import torch
from torch import nn
from torch.nn import functional


class InvertedResidual(nn.Module):
    """The block of MobileNetV2: wide, depthwise, narrow."""

    def __init__(self, inputs, outputs, factor):
        super().__init__()
        wide = inputs * factor
        self.joins = inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return x + self.body(x) if self.joins else self.body(x)


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a concatenation."""

    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = nn.Conv2d(2 * width, 3, 1)

    def forward(self, x):
        fine = torch.relu(self.first(x))
        coarse = self.up(torch.relu(self.down(fine)))
        return self.last(torch.cat([fine, coarse], dim=1))


class Recurrent(nn.Module):
    """A stack of recurrent layers that reads what an embedding makes."""

    def __init__(self, kind, layers, **options):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.cells = kind(6, 4, layers, batch_first=True, **options)
        found = (options.get("proj_size") or 4) * (2 if options.get("bidirectional") else 1)
        self.out = nn.Linear(found, 3)

    def forward(self, tokens):
        return self.out(self.cells(self.embedding(tokens))[0])


class Attention(nn.Module):
    """Heads by linear layers of their own for queries, keys and values."""

    def __init__(self, width, heads, size):
        super().__init__()
        self.heads, self.size = heads, size
        self.queries = nn.Linear(width, heads * size)
        self.keys = nn.Linear(width, heads * size)
        self.values = nn.Linear(width, heads * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x):
        batch, time, _ = x.shape
        queries, keys, values = (
            layer(x).view(batch, time, self.heads, -1).transpose(1, 2)
            for layer in (self.queries, self.keys, self.values)
        )
        scores = torch.softmax(queries @ keys.transpose(-1, -2) / self.size**0.5, dim=-1)
        return self.out((scores @ values).transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """Heads by one linear layer for all three, cut by chunk or by a reshape."""

    def __init__(self, width, heads, size, cut):
        super().__init__()
        self.num_heads, self.head_dim, self.cut = heads, size, cut
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.out = nn.Linear(heads * size, width)

    def forward(self, x):
        batch, time, _ = x.shape
        if self.cut == "chunk":
            parts = [
                one.reshape(batch, time, self.num_heads, self.head_dim).transpose(1, 2)
                for one in self.qkv(x).chunk(3, dim=-1)
            ]
        else:
            parts = self.qkv(x).reshape(batch, time, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(found.transpose(1, 2).reshape(batch, time, -1))


class Block(nn.Module):
    """Attention and a gated feed-forward part around a residual stream."""

    def __init__(self, attention, width):
        super().__init__()
        self.attention = attention
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.gate, self.down = nn.Linear(width, 20), nn.Linear(10, width)

    def forward(self, x):
        x = x + self.attention(self.first(x))
        return x + self.down(functional.glu(self.gate(self.second(x))))


class Tied(nn.Module):
    """A language model whose last layer is its embedding."""

    def __init__(self, *blocks, width=8):
        super().__init__()
        self.embedding = nn.Embedding(9, width)
        self.places = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(width, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.blocks(self.embedding(tokens) + self.places[:, : tokens.shape[1]]))


class Dense(nn.Module):
    """A residual sum over a concatenation, as no network of the package has."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.join, self.norm, self.out = nn.Conv2d(10, 10, 1), nn.BatchNorm2d(10), nn.Linear(10, 2)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        both = torch.cat((self.left(x), self.right(x)), 1)
        both = both + functional.elu(self.norm(self.join(both)))
        return self.out(both.mean((2, 3)))


class Squeeze(nn.Module):
    """Channels weighed by what a small network makes of their means, then shuffled between two halves."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc1, self.fc2 = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Linear(4, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (
            x
            * torch.sigmoid(self.fc2(functional.relu(self.fc1(functional.adaptive_avg_pool2d(x, 1).flatten(1)))))[
                :, :, None, None
            ]
        )
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        return self.out(x)


class Decoder(nn.Module):
    """From a vector to an image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, 6 * 4),
            nn.ReLU(),
            nn.Unflatten(1, (6, 2, 2)),
            nn.ConvTranspose2d(6, 8, 2, stride=2),
            nn.PReLU(8),
            nn.PixelShuffle(2),
            nn.Conv2d(2, 3, 1),
        )

    def forward(self, x):
        return self.body(x)


class Halves(nn.Module):
    """One half passes by, the other goes through a depthwise branch, and both are shuffled (ShuffleNet)."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.out(x.view(batch, channels, height, width))


class Growing(nn.Module):
    """Every layer reads all before it (DenseNet)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * one) for one in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * one, 4, 3, padding=1) for one in range(3))
        self.out = nn.Linear(18, 2)

    def forward(self, x):
        found = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            found.append(layer(functional.relu(norm(torch.cat(found, 1)))))
        return self.out(torch.cat(found, 1).mean((2, 3)))


class Causal(nn.Module):
    """A small language model as they are often written: sizes read from the input and from attributes, mixed."""

    def __init__(self, width, heads):
        super().__init__()
        self.n_embd, self.n_head = width, heads
        self.tokens, self.places = nn.Embedding(7, width), nn.Embedding(5, width)
        self.fused, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.head = nn.Linear(width, 12), nn.Linear(12, width), nn.Linear(width, 7, bias=False)
        self.register_buffer("seen", torch.tril(torch.ones(5, 5)).view(1, 1, 5, 5))

    def attend(self, x):
        batch, time, width = x.size()
        queries, keys, values = (
            one.view(batch, time, self.n_head, width // self.n_head).transpose(1, 2)
            for one in self.fused(x).split(self.n_embd, dim=2)
        )
        scores = (queries @ keys.transpose(-2, -1)) * (1.0 / math.sqrt(keys.size(-1)))
        scores = scores.masked_fill(self.seen[:, :, :time, :time] == 0, float("-inf"))
        found = (functional.softmax(scores, dim=-1) @ values).transpose(1, 2).contiguous().view(batch, time, width)
        return self.back(found)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(0, tokens.size(1)))
        x = x + self.attend(self.first(x))
        return self.head(x + self.down(functional.gelu(self.up(self.second(x)))))
