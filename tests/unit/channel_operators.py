"""One small model for each operator that the channel service knows, and each way of calling it.

A layer makes eight channels, a function does something with them, and a layer reads all that comes out.
"""

import torch
from torch import nn
from torch.nn import functional


class Between(nn.Module):
    """A function between two layers; ``more`` are attributes, numbers or modules, that it may use."""

    def __init__(self, first, example, function, **more):
        super().__init__()
        self.first, self.function = first, function
        for name, value in more.items():
            setattr(self, name, value)
        self.last = nn.LazyLinear(2)
        with torch.no_grad():
            self(example)

    def forward(self, x):
        found = self.function(self, self.first(x))
        return self.last(found.flatten(1) if found.dim() > 1 else found)


def rows(function, **more):
    """Three rows of eight channels."""
    return Between, nn.Linear(4, 8), torch.randn(3, 4), function, more


def steps(function, **more):
    """Two sequences of five steps of eight channels."""
    return Between, nn.Linear(4, 8), torch.randn(2, 5, 4), function, more


def images(function, **more):
    """Two images of 4x4 pixels and eight channels."""
    return Between, nn.Conv2d(2, 8, 1), torch.randn(2, 2, 4, 4), function, more


def lines(function, **more):
    """Two lines of six pixels and eight channels."""
    return Between, nn.Conv1d(2, 8, 1), torch.randn(2, 2, 6), function, more


def other(size=8):
    return nn.Linear(8, size)


def weight(*shape):
    return nn.Parameter(torch.randn(*shape))


ARITHMETIC = {
    "number minus": rows(lambda _, x: 1 - x),
    "number divided": rows(lambda _, x: 2 / (x * x + 1)),
    "two layers": rows(lambda m, x: torch.maximum(x, other=m.more(x)), more=other()),
    "broadcast": steps(lambda m, x: x + m.more(x)[:, :1] + m.bias, more=other(), bias=weight(8)),
    "broadcast over one": rows(lambda m, x: x * m.more(x), more=other(1)),
    "with constants": rows(lambda _, x: x + torch.ones(8)),
    "with a tensor that is no parameter": rows(lambda m, x: x * m.scale, scale=torch.full((1,), 2.0)),
    "where": rows(lambda m, x: torch.where(x > 0, x, m.more(x)), more=other()),
    "where a number": rows(lambda _, x: torch.where(x > 0, x, 0.0)),
    "in place": rows(lambda _, x: x.clone().mul_(2).clamp_(min=0)),
    "power": rows(lambda _, x: 2**x),
    "zeros like": rows(lambda _, x: x + torch.zeros_like(input=x)),
    "another type": rows(lambda _, x: x.double().to(torch.float32).detach()),
    "max of two": rows(lambda m, x: x.max(m.more(x)), more=other()),
    "min of two": rows(lambda m, x: torch.min(x, other=m.more(x)), more=other()),
    "max over rows": rows(lambda _, x: x + x.max(0, keepdim=True)[0]),
    "max over channels": rows(lambda _, x: x + x.max(dim=1, keepdim=True).values),
    "sum over rows": rows(lambda _, x: x + x.sum(0)),
    "sum over an axis": rows(lambda _, x: x + x.sum(axis=-2, keepdim=True)),
    "sum of all": rows(lambda _, x: x + x.sum()),
    "mean over steps": steps(lambda _, x: x.mean((1,))),
    "mean over pixels": images(lambda _, x: x.mean((-2, -1))),
    "deviation and mean": rows(lambda _, x: x + sum(torch.std_mean(x, 0))),
    "largest of rows": rows(lambda _, x: x.topk(2, 0)[0][:1]),
    "largest of channels": rows(lambda _, x: x.topk(2)[0]),
    "norm over rows": rows(lambda _, x: x * x.norm(2, 0, keepdim=True)),
    "vector norm over channels": rows(lambda _, x: x * torch.linalg.vector_norm(x, 2, 1, keepdim=True)),
    "normalized over rows": rows(lambda _, x: functional.normalize(x, 2.0, 0)),
    "normalized over channels": rows(lambda _, x: functional.normalize(x)),
    "gumbel softmax over rows": rows(lambda _, x: functional.gumbel_softmax(x, 1.0, False, 1e-10, 0)),
    "similarity over rows": rows(lambda m, x: x * functional.cosine_similarity(x, m.more(x), 0), more=other()),
    "divided by the number of channels": rows(lambda _, x: x / x.shape[1]),
    "running sum": steps(lambda _, x: x.cumsum(1)),
    "softmax over steps": steps(lambda _, x: x.softmax(dim=1)),
    "sorted": rows(lambda _, x: x.sort(0)[0]),
}
MADE = {
    "sizes": rows(lambda _, x: x + x.new_zeros(x.shape[0], x.shape[1])),
    "a shape": rows(lambda _, x: x + torch.zeros(x.shape)),
    "a shape by name": rows(lambda _, x: x + torch.ones(size=x.shape)),
    "a tuple": rows(lambda _, x: x + torch.rand((x.shape[0], x.size(1)))),
    "a vector": rows(lambda _, x: x + torch.ones(x.shape[-1])),
    "filled": rows(lambda _, x: x + torch.full((x.shape[0], x.shape[1]), 2.0)),
    "numbers": rows(lambda _, x: x + x.new_zeros((3, 8))),
    "one number": rows(lambda _, x: x + torch.zeros(())),
    "turned": rows(lambda _, x: x + torch.zeros(x.shape[1], x.shape[0]).t()),
}
PLACES = {
    "padded pixels": images(lambda _, x: functional.pad(x, (1, 1))),
    "padded rows of pixels": images(lambda _, x: functional.pad(x, (0, 0, 1, 2))),
    "padded nowhere": images(lambda _, x: functional.pad(input=x, pad=(0, 0, 0, 0, 0, 0))),
    "padded channels": images(lambda _, x: functional.pad(x, (0, 0, 0, 0, 0, 1))),
    "patches": images(lambda _, x: functional.unfold(x, 2)),
    "windows of pixels": images(lambda _, x: x.unfold(2, 2, 1)),
    "windows of channels": images(lambda _, x: x.unfold(dimension=-3, size=2, step=1)),
    "lower triangle of channels": rows(lambda _, x: x.tril()),
    "upper triangle of pixels": images(lambda _, x: x.triu()),
    "rolled pixels": images(lambda _, x: x.roll(1, 3)),
    "rolled by name": images(lambda _, x: torch.roll(x, shifts=1, dims=-1)),
    "rolled channels": images(lambda _, x: x.roll((1, 1), (1, 2))),
    "rolled all": images(lambda _, x: x.roll(1)),
    "flipped pixels": images(lambda _, x: x.flip(2)),
    "flipped by list": images(lambda _, x: x.flip(dims=[2, 3])),
    "flipped channels": images(lambda _, x: x.flip([1])),
    "pooled": images(lambda _, x: functional.max_pool2d(x, 2)),
    "pooled by module": images(lambda m, x: m.pool(x), pool=nn.AdaptiveAvgPool2d(1)),
    "pooled with places": images(lambda _, x: functional.max_pool2d(x, 2, return_indices=True)[0]),
    "pooled channels": rows(lambda _, x: functional.max_pool1d(x, 2)),
    "pooled lines": lines(lambda _, x: functional.avg_pool1d(input=x, kernel_size=3)),
    "larger": images(lambda _, x: functional.interpolate(x, scale_factor=2)),
    "larger lines": lines(lambda _, x: functional.interpolate(input=x, size=9)),
    "sampled": images(lambda _, x: functional.grid_sample(x, torch.zeros(2, 3, 3, 2), align_corners=False)),
}
JOINED = {
    "side by side": rows(lambda m, x: torch.cat([x, m.more(x)], 1), more=other(6)),
    "by name": rows(lambda m, x: torch.cat(tensors=[m.more(x), x], dim=-1), more=other(6)),
    "by axis": rows(lambda _, x: torch.concatenate([x, x * 2], axis=1)),
    "below each other": rows(lambda m, x: torch.cat([x, m.more(x)])[:3], more=other()),
    "with nothing": rows(lambda m, x: torch.cat([torch.zeros(0), x, m.more(x)], 1), more=other(2)),
    "with constants": rows(lambda _, x: torch.cat([torch.ones(3, 2), x], 1)),
    "joined pixels": images(lambda m, x: torch.cat([x, m.more(x)], 3), more=nn.Conv2d(8, 8, 1)),
    "constants first": rows(lambda _, x: torch.cat([torch.ones(1, 8), x])[:3]),
    "stacked": rows(lambda m, x: torch.stack([x, m.more(x)], 1), more=other()),
    "stacked by name": rows(lambda m, x: torch.stack(tensors=[x, m.more(x)], dim=-1), more=other()),
    "stacked first": rows(lambda _, x: torch.stack([x, x])[0]),
}
CUT = {
    "two chunks": rows(lambda _, x: (lambda a, b: a * b)(*x.chunk(2, 1))),
    "chunks by name": rows(lambda _, x: torch.cat(torch.chunk(x, chunks=4, dim=-1), 1)),
    "chunks of rows": rows(lambda _, x: x.chunk(3)[0]),
    "chunks of one": rows(lambda _, x: sum(x.chunk(8, 1)) * x),
    "unequal chunks": rows(lambda _, x: torch.cat(x.chunk(3, 1), 1)),
    "tensor split": rows(lambda _, x: x.tensor_split(2, 1)[1]),
    "split by an attribute": rows(lambda m, x: torch.cat(x.split(m.half, 1), 1), half=4),
    "split by name": rows(lambda m, x: torch.split(x, split_size_or_sections=m.half, dim=1)[1], half=4),
    "split by size": rows(lambda m, x: x.split(split_size=m.half, dim=-1)[0], half=4),
    "split by a number": rows(lambda _, x: torch.cat(x.split(4, 1), 1)),
    "split unevenly": rows(lambda m, x: torch.cat(x.split(m.some, 1), 1), some=3),
    "split rows": rows(lambda _, x: x.split(1)[2]),
    "split by attributes": rows(lambda m, x: x.split([m.some, m.rest], 1)[1], some=3, rest=5),
    "split by read sizes": rows(lambda _, x: torch.cat(x.split([x.shape[1] // 2] * 2, dim=1), 1)),
    "split by numbers": rows(lambda _, x: torch.cat(x.split([3, 5], 1), 1)),
    "unbound rows": rows(lambda _, x: torch.stack(x.unbind(0))),
    "unbound by name": steps(lambda _, x: torch.unbind(x, dim=1)[0]),
    "unbound channels": rows(lambda _, x: x.unbind(1)[0][:, None] + x),
    "selected rows": steps(lambda _, x: x.select(1, 0)),
    "selected channel": rows(lambda _, x: x.select(dim=-1, index=0)[:, None] + x),
    "one by one": rows(lambda _, x: torch.stack([one * 2 for one in x])),
    "rows by number": steps(lambda _, x: x.index_select(1, torch.tensor([0, 2]))),
    "channels by number": rows(lambda _, x: x.index_select(dim=1, index=torch.tensor([0, 2]))),
    "along": steps(lambda _, x: torch.take_along_dim(x, torch.zeros(2, 1, 8, dtype=torch.long), dim=1)),
    "gathered": rows(lambda _, x: x.gather(1, torch.zeros(3, 2, dtype=torch.long))),
    "narrowed rows": steps(lambda _, x: x.narrow(1, 1, 3)),
    "narrowed channels": rows(lambda m, x: x.narrow(1, 0, m.some), some=3),
    "narrowed within": rows(lambda m, x: x.narrow(dim=1, start=m.some, length=2), some=3),
    "half of the gates": rows(lambda _, x: functional.glu(x)),
    "half of the gates of channels": images(lambda _, x: functional.glu(x, 1)),
    "half of the gates by name": images(lambda _, x: functional.glu(x, dim=-3)),
}
INDEXED = {
    "one row": steps(lambda _, x: x[:, 0]),
    "the last row": steps(lambda _, x: x[:, -1, :]),
    "one channel": rows(lambda _, x: x[:, 0:1] + x[:, 0, None]),
    "a new dimension": rows(lambda _, x: x[..., None]),
    "a new one before": rows(lambda _, x: x[:, None, :]),
    "all that follow": steps(lambda _, x: x[..., 1:]),
    "from an attribute": rows(lambda m, x: x[:, m.some :], some=3),
    "up to an attribute": rows(lambda m, x: x[:, : m.some], some=3),
    "between attributes": rows(lambda m, x: x[:, m.some : m.most], some=2, most=5),
    "up to a number": rows(lambda _, x: x[:, :4]),
    "from the end": rows(lambda _, x: x[:, -4:]),
    "every other": rows(lambda _, x: x[:, ::2]),
    "first half": rows(lambda _, x: x[:, : x.shape[1] // 2]),
    "second half": rows(lambda _, x: x[:, x.shape[1] // 2 :]),
    "all but one": rows(lambda _, x: x[:, : x.shape[1] - 1]),
    "steps": steps(lambda _, x: x[:, 1::2]),
    "rows by a list": rows(lambda _, x: x[[0, 1, 2]]),
    "rows by a tensor": steps(lambda _, x: x[:, torch.tensor([[0, 1], [2, 3]])]),
    "channels by a list": rows(lambda _, x: x[:, [0, 2]]),
    "pixels by two lists": images(lambda _, x: x[:, :, [0, 1], [1, 0]]),
    "lists apart": images(lambda _, x: x[[0, 1], :, [0, 1]]),
    "set": rows(lambda _, x: written(x, (slice(None), 0), 0.0)),
    "set in a row": rows(lambda m, x: written(x, 0, m.more(x)[1]), more=other()),
    "filled by index": rows(lambda _, x: x.clone().index_fill_(0, torch.tensor([0]), 0.0)),
}
SHAPED = {
    "a number": rows(lambda _, x: x.view(-1, 8)),
    "the rest": rows(lambda _, x: x.view(x.shape[0], -1)),
    "its own shape": rows(lambda _, x: x.view(x.shape)),
    "a tuple": rows(lambda _, x: x.view((3, x.shape[1]))),
    "by name": rows(lambda _, x: torch.reshape(x, shape=(3, -1))),
    "another type": rows(lambda _, x: x.view(torch.int32).view(torch.float32)),
    "heads": rows(lambda m, x: x.view(3, m.num_heads, -1).softmax(-1), num_heads=4),
    "heads of an outer module": rows(
        lambda m, x: m.inner(x), inner=nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Softmax(-1)), num_heads=4
    ),
    "heads and equal sizes": steps(lambda m, x: x.view(2, 5, m.heads, 2, 2).transpose(2, 4), heads=2),
    "three for each head": steps(
        lambda m, x: m.more(x).view(2, 5, 3, m.heads, 2)[:, :, 0].flatten(2), more=other(18), heads=3
    ),
    "parts": rows(lambda m, x: x.view(3, m.parts, 2).softmax(2), parts=4),
    "parts that are not sure": rows(lambda m, x: x.view(3, 4, 2).softmax(2), parts=4, also=4),
    "parts and the rest": rows(lambda _, x: x.view(3, -1, 2).softmax(2)),
    "numbers": rows(lambda _, x: x.view(3, 2, 4).softmax(2)),
    "numbers that change nothing": rows(lambda _, x: x.view(3, 2, 4).flatten(1)),
    "read sizes": rows(lambda _, x: x.view(3, x.shape[1] // 2, 2).amax(2)),
    "a sum of sizes": rows(lambda _, x: x.view(3, 0 + x.shape[1] + 0)),
    "a difference of sizes": rows(lambda _, x: x.view(3, x.shape[1] - 0)),
    "a product of sizes": rows(lambda _, x: x.view(3, 2 * (x.shape[1] // 2) * 1)),
    "a sum of two sizes": rows(lambda m, x: torch.cat([x, m.more(x)], 1).view(3, x.shape[1] + 6), more=other(6)),
    "unflattened": rows(lambda m, x: x.unflatten(1, (m.num_heads, -1)).softmax(2), num_heads=4),
    "unflattened steps": steps(lambda m, x: x.unflatten(-1, (m.num_heads, -1)).softmax(-1), num_heads=4),
    "unflattened first": images(lambda m, x: x.unflatten(dim=1, sizes=(m.num_heads, -1)).amax(2), num_heads=4),
    "unflattened by module": rows(lambda m, x: m.apart(x).softmax(2), apart=nn.Unflatten(1, (4, 2))),
    "pixels together": images(lambda _, x: x.flatten(2)),
    "pixels by numbers": images(lambda _, x: x.view(2, x.shape[1], 16)),
    "pixels apart": images(lambda _, x: x.flatten(2).view(2, -1, 4, 4)),
    "like another": rows(lambda m, x: m.more(x).view(3, 8, 1).reshape_as(x), more=other()),
    "like nothing": rows(lambda _, x: x.view_as(torch.zeros(3, 8))),
    "two of channels": rows(lambda m, x: (x[:, :, None] * m.more(x)[:, None]).flatten(1), more=other(3)),
    "of nothing": rows(lambda _, x: torch.cat([x, x[:0].view(0, 8)])),
}
TURNED = {
    "permuted": images(lambda _, x: x.permute(0, 2, 3, 1)),
    "permuted by a list": images(lambda _, x: x.permute([0, 3, 1, 2])),
    "permuted by name": images(lambda _, x: torch.permute(x, dims=(0, -1, 1, 2))),
    "transposed": images(lambda _, x: x.transpose(1, 3)),
    "transposed by name": images(lambda _, x: x.transpose(dim0=1, dim1=-2)),
    "swapped axes": images(lambda _, x: x.swapaxes(axis0=1, axis1=2)),
    "swapped dimensions": images(lambda _, x: torch.swapdims(x, dim0=3, dim1=1)),
    "t": rows(lambda _, x: x.t().t() + x.T.T),
    "mT": steps(lambda _, x: x.mT),
    "moved": images(lambda _, x: x.movedim(1, -1)),
    "moved by name": images(lambda _, x: x.movedim(source=(1, 2), destination=(2, 1))),
    "moved axes": images(lambda _, x: torch.moveaxis(x, (3, 1), (1, 2))),
    "squeezed": rows(lambda _, x: x[:, None].squeeze(1)),
    "squeezed by name": rows(lambda _, x: x[:, None, :, None].squeeze(dim=-1)),
    "squeezed all": rows(lambda _, x: x[None, :, None].squeeze()),
    "squeezed nothing": rows(lambda _, x: x.squeeze(0)),
    "unsqueezed": rows(lambda _, x: x.unsqueeze(1)),
    "unsqueezed by name": rows(lambda _, x: x.unsqueeze(dim=-1)),
    "expanded": rows(lambda _, x: x[:, None].expand(-1, 2, -1)),
    "expanded by numbers": rows(lambda _, x: x[:, None].expand((3, 2, 8))),
    "expanded by sizes": rows(lambda _, x: x[:, None].expand(3, 2, x.shape[1])),
    "expanded before": rows(lambda _, x: x.expand(2, 3, -1)[0]),
    "expanded as": rows(lambda m, x: m.more(x).expand_as(x) * x, more=other(1)),
    "broadcast": rows(lambda _, x: torch.broadcast_to(x[:, None], (3, 2, 8))),
    "repeated": rows(lambda _, x: x.repeat(1, 2)),
    "repeated before": rows(lambda _, x: x.repeat(3, 1, 1)[0]),
    "tiled": rows(lambda _, x: torch.tile(x, (1, 3))),
    "each twice": rows(lambda _, x: x.repeat_interleave(2, 1)),
    "each thrice": rows(lambda _, x: torch.repeat_interleave(x, repeats=3, dim=-1)),
    "all twice": rows(lambda _, x: x.repeat_interleave(2)[None]),
    "each as often": rows(lambda _, x: x.repeat_interleave(torch.arange(8), 1)),
    "pixels of channels": images(lambda _, x: functional.pixel_shuffle(x, 2)),
    "channels of pixels": images(lambda _, x: functional.pixel_unshuffle(x, 2)),
    "dealt out": images(lambda _, x: functional.channel_shuffle(x, 2)),
    "dealt out by name": images(lambda m, x: m.deal(x), deal=nn.ChannelShuffle(4)),
}
LAYERS = {
    "linear": rows(lambda m, x: functional.linear(input=x, weight=m.w, bias=m.b), w=weight(5, 8), b=weight(5)),
    "no bias": rows(lambda m, x: functional.linear(x, m.w), w=weight(5, 8)),
    "convolution": images(lambda m, x: m.more(x), more=nn.Conv2d(8, 6, 3, padding=1)),
    "convolution, valid": images(lambda m, x: m.more(x), more=nn.Conv2d(8, 6, 3, padding="valid")),
    "convolution, same": images(lambda m, x: m.more(x), more=nn.Conv2d(8, 6, 3, padding="same")),
    "convolution of lines": lines(lambda m, x: functional.conv1d(x, m.w, m.b), w=weight(6, 8, 2), b=weight(6)),
    "convolution alone": images(lambda m, x: m.more(x[0]), more=nn.Conv2d(8, 6, 2)),
    "convolution over channels": lines(lambda m, x: m.more(x.mT), more=nn.Conv1d(6, 3, 2)),
    "in groups": images(lambda m, x: m.more(x), more=nn.Conv2d(8, 12, 3, groups=4)),
    "in groups by an attribute": images(
        lambda m, x: functional.conv2d(x, m.w, m.b, groups=m.parts), w=weight(8, 4, 1, 1), b=weight(8), parts=2
    ),
    "in groups by a number": images(lambda m, x: functional.conv2d(x, m.w, None, 1, 0, 1, 2), w=weight(8, 4, 1, 1)),
    "transposed": images(lambda m, x: m.more(x), more=nn.ConvTranspose2d(8, 6, 2)),
    "transposed in groups": images(lambda m, x: m.more(x), more=nn.ConvTranspose2d(8, 6, 2, groups=2)),
    "embedding": rows(lambda m, x: x + functional.embedding(torch.arange(3), m.w), w=weight(4, 8)),
    "batch norm": images(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(8)),
    "batch norm, no statistics": rows(
        lambda m, x: m.norm(x), norm=nn.BatchNorm1d(8, affine=False, track_running_stats=False)
    ),
    "batch norm by hand": rows(
        lambda m, x: functional.batch_norm(x, None, None, weight=m.w, bias=m.b, training=True), w=weight(8), b=weight(8)
    ),
    "instance norm": images(lambda m, x: m.norm(x), norm=nn.InstanceNorm2d(8, affine=True)),
    "layer norm": rows(lambda m, x: m.norm(x), norm=nn.LayerNorm(8)),
    "layer norm, no bias": rows(lambda m, x: m.norm(x), norm=nn.LayerNorm(8, bias=False)),
    "layer norm by an attribute": rows(
        lambda m, x: functional.layer_norm(x, (m.width,), m.w, m.b), w=weight(8), b=weight(8), width=8
    ),
    "layer norm by a number": rows(lambda m, x: functional.layer_norm(x, [8], bias=m.b), b=weight(8)),
    "layer norm by a size": rows(lambda m, x: functional.layer_norm(x, x.shape[1:], m.w), w=weight(8)),
    "layer norm over two": steps(lambda m, x: m.norm(x), norm=nn.LayerNorm((5, 8))),
    "layer norm of no channels": images(lambda m, x: m.norm(x), norm=nn.LayerNorm((4, 4))),
    "root mean square norm": rows(lambda m, x: m.norm(x), norm=nn.RMSNorm(8)),
    "group norm": images(lambda m, x: m.norm(x), norm=nn.GroupNorm(4, 8)),
    "group norm, no weights": images(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 8, affine=False)),
    "group norm by an attribute": images(lambda m, x: functional.group_norm(x, m.parts, m.w), w=weight(8), parts=4),
    "group norm by a number": images(lambda m, x: functional.group_norm(x, num_groups=4, bias=m.b), b=weight(8)),
    "one slope": rows(lambda m, x: m.slope(x), slope=nn.PReLU()),
    "slopes": rows(lambda m, x: m.slope(x), slope=nn.PReLU(8)),
    "slopes by hand": rows(lambda m, x: functional.prelu(x, m.w), w=weight(8)),
}
PRODUCTS = {
    "weights right": rows(lambda m, x: x @ m.w, w=weight(8, 5)),
    "weights left": rows(lambda m, x: (m.w @ x.t()).t(), w=weight(5, 8)),
    "a vector": rows(lambda m, x: torch.mv(x, m.w)[:, None] * x, w=weight(8)),
    "batches": steps(lambda m, x: torch.bmm(x, m.w.expand(2, 8, 5)), w=weight(1, 8, 5)),
    "batches of channels": images(lambda m, x: x @ m.w, w=weight(4, 5)),
    "weights for each channel": images(lambda m, x: x @ m.w, w=weight(8, 4, 5)),
    "added": rows(lambda m, x: torch.addmm(m.b, x, m.w), w=weight(8, 5), b=weight(5)),
    "added in batches": steps(lambda m, x: torch.baddbmm(m.b, x, m.w.expand(2, 8, 5)), w=weight(1, 8, 5), b=weight(5)),
    "with itself": rows(lambda _, x: (x @ x.t()).softmax(1) @ x),
    "over steps": steps(lambda m, x: m.w @ x, w=weight(3, 5)),
    "letters": rows(lambda m, x: torch.einsum("bc,dc->bd", x, m.w), w=weight(5, 8)),
    "letters of steps": steps(lambda m, x: torch.einsum("btc, cd -> btd", x, m.w), w=weight(8, 5)),
    "letters kept": rows(lambda m, x: torch.einsum("bc,c->bc", x, m.w), w=weight(8)),
    "letters summed": steps(lambda _, x: torch.einsum("btc->bc", x)),
    "letters of two": steps(lambda _, x: torch.einsum("btc,bsc->bts", x, x)),
    "letters of all": rows(lambda m, x: torch.einsum("...c,dc->...d", x, m.w), w=weight(5, 8)),
    "direction and length": rows(lambda m, x: m.more(x), more=nn.utils.parametrizations.weight_norm(other(5))),
    "positions of numbers": rows(lambda _, x: torch.cat([x, functional.one_hot(torch.arange(3), 4).float()], 1)),
}


def query(function, **more):
    """Attention over steps of eight channels."""
    return steps(function, **more)


def written(x, place, value):
    """A copy with a value in some place."""
    x = x.clone()
    x[place] = value
    return x


def lengths(batch, *sizes):
    return {f"s{place}": weight(batch, size) for place, size in enumerate(sizes)}


SEQUENCES = {
    "lstm that begins anywhere": steps(
        lambda m, x: m.cells(x, (m.h, m.c))[0], cells=nn.LSTM(8, 4), h=weight(1, 5, 4), c=weight(1, 5, 4)
    ),
    "lstm of zeros": steps(
        lambda m, x: m.cells(x, (x.new_zeros(1, 5, 4), x.new_zeros(1, 5, 4)))[0], cells=nn.LSTM(8, 4)
    ),
    "projected lstm that begins anywhere": steps(
        lambda m, x: m.cells(x, (m.h, m.c))[0], cells=nn.LSTM(8, 5, proj_size=3), h=weight(1, 5, 3), c=weight(1, 5, 5)
    ),
    "what an lstm ends with": steps(lambda m, x: torch.cat(m.cells(x)[1], 2)[0], cells=nn.LSTM(8, 4)),
    "both ends of a gru": steps(lambda m, x: m.cells(x)[1].mT, cells=nn.GRU(8, 4, 2, bidirectional=True)),
    "lstm cell": rows(lambda m, x: torch.cat(m.cell(x, (m.s0, m.s1)), 1), cell=nn.LSTMCell(8, 4), **lengths(3, 4, 4)),
    "lstm cell of zeros": rows(lambda m, x: m.cell(x)[0], cell=nn.LSTMCell(8, 4)),
    "gru cell": rows(lambda m, x: m.cell(x, m.s0), cell=nn.GRUCell(8, 4), **lengths(3, 4)),
    "gru cell of another layer": rows(lambda m, x: m.cell(x, m.more(x)), cell=nn.GRUCell(8, 4), more=other(4)),
    "rnn cell": rows(lambda m, x: m.cell(x, m.s0), cell=nn.RNNCell(8, 4, bias=False), **lengths(3, 4)),
    "rnn cell of ramps": rows(
        lambda m, x: m.cell(m.cell(x, m.s0) @ m.w, m.s0),
        cell=nn.RNNCell(8, 4, nonlinearity="relu"),
        w=weight(4, 8),
        **lengths(3, 4),
    ),
    "attention": query(
        lambda m, x: functional.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)), q=other(4), k=other(4), v=other(5)
    ),
    "attention by name": query(
        lambda m, x: functional.scaled_dot_product_attention(query=x, key=m.k(x), value=m.v(x)), k=other(), v=other(5)
    ),
    "attention over channels": query(lambda _, x: functional.scaled_dot_product_attention(x.mT, x.mT, x.mT)),
    "heads": query(lambda m, x: m.heads(x, x, x)[0], heads=nn.MultiheadAttention(8, 4, batch_first=True)),
    "heads that ask with constants": query(
        lambda m, x: m.heads(torch.ones(2, 5, 8), x, x)[0], heads=nn.MultiheadAttention(8, 4, batch_first=True)
    ),
    "heads, no bias": query(
        lambda m, x: m.heads(x, x, x, need_weights=False)[0],
        heads=nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
    ),
    "heads and more keys": query(
        lambda m, x: m.heads(x, x, x)[0], heads=nn.MultiheadAttention(8, 4, add_bias_kv=True, batch_first=True)
    ),
    "heads of other sizes": query(
        lambda m, x: m.heads(x, m.k(x), m.v(x))[0],
        heads=nn.MultiheadAttention(8, 4, kdim=6, vdim=5, batch_first=True),
        k=other(6),
        v=other(5),
    ),
    "heads whose weights are used": query(
        lambda m, x: torch.cat(m.heads(x, x, x), 2), heads=nn.MultiheadAttention(8, 4, batch_first=True)
    ),
    "heads by hand": query(
        lambda m, x: functional.multi_head_attention_forward(
            x, x, x, 8, 4, m.w, m.b, None, None, False, 0.0, m.out, m.o
        )[0],
        w=weight(24, 8),
        b=weight(24),
        out=weight(8, 8),
        o=weight(8),
    ),
}
OPERATORS = {
    f"{kind}: {name}": one
    for kind, table in (
        ("arithmetic", ARITHMETIC),
        ("made", MADE),
        ("places", PLACES),
        ("joined", JOINED),
        ("cut", CUT),
        ("indexed", INDEXED),
        ("shaped", SHAPED),
        ("turned", TURNED),
        ("layers", LAYERS),
        ("products", PRODUCTS),
        ("sequences", SEQUENCES),
    )
    for name, one in table.items()
}


def model_of(name):
    """The model of an operator, and its example."""
    kind, first, example, function, more = OPERATORS[name]
    return kind(first, example, function, **more), example
