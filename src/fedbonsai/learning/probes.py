"""What a method may ask of a network besides its gradient: curvature, flow, uses of weights, activity of units."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError, lookup
from fedbonsai.learning.bench import Bench, first_examples
from fedbonsai.learning.device import CPU
from fedbonsai.learning.flops import count_all, count_uses, without_onednn


def hessian_gradient(bench: Bench, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """``H g`` of the mean loss over ``batches``: its gradient ``g`` first, then the gradient of ``g . stop(g)``.

    Both passes go over all batches, so that ``g`` is the gradient of their mean (Wang et al., ICLR 2020, algorithm 2).

    Args:
        bench: The module, with the weights to probe loaded.
        batches: Positions of the examples, batch by batch.

    Returns:
        One tensor a parameter; zeros for frozen ones.
    """
    mean = {name: one.to(bench.device, copy=True) for name, one in bench.gradient(iter(batches)).items()}
    trained = {name: one for name, one in bench.live.weights.items() if one.requires_grad}
    total = {name: torch.zeros_like(one) for name, one in mean.items()}
    examples = sum(len(one) for one in batches)

    def product(positions: Tensor) -> tuple[Tensor, ...]:
        inputs, targets = bench.task.pool.batch(positions)
        loss = bench.task.loss.function(bench.module(inputs), targets)
        first = torch.autograd.grad(loss, list(trained.values()), create_graph=True, materialize_grads=True)
        aligned = torch.stack([(g * mean[name]).sum() for name, g in zip(trained, first, strict=True)]).sum()
        return torch.autograd.grad(aligned, list(trained.values()), materialize_grads=True)

    sample = batches[0][:2]
    each = count_all(lambda: product(sample)) // len(sample)
    with without_onednn():  # a recurrent layer has no second derivative there
        for positions in batches:
            for name, one in zip(trained, product(positions), strict=True):
                total[name].add_(one, alpha=len(positions) / examples)
    bench.meter.flops += each * examples
    return {name: one.to(CPU) for name, one in total.items()}


def flow_gradient(bench: Bench) -> dict[str, Tensor]:
    """The gradient of ``R``, the sum of outputs for an input of ones, through the network of absolute weights.

    In double precision, because the flow through a deep network is a product of many small or large numbers (Tanaka
    et al., NeurIPS 2020, equation 2).

    Args:
        bench: The module, with the weights to probe loaded.

    Returns:
        One float64 tensor a parameter; zeros for frozen ones.

    Raises:
        ConfigError: The model takes tokens, of which there is no "one"; or the flow is not finite.
    """
    example, _ = bench.task.pool.batch(torch.zeros(1, dtype=torch.long))
    if not example.is_floating_point():
        raise ConfigError("synflow needs a model of continuous inputs, this one takes tokens; use another criterion")
    absolute = {name: one.detach().double().abs().requires_grad_() for name, one in bench.live.weights.items()}
    buffers = {name: one.double() for name, one in bench.module.named_buffers()}

    def gradients() -> tuple[Tensor, ...]:
        ones = torch.ones_like(example, dtype=torch.float64)
        flow = torch.func.functional_call(bench.module, {**absolute, **buffers}, (ones,)).sum()
        return torch.autograd.grad(flow, list(absolute.values()), materialize_grads=True)

    bench.module.eval()
    try:
        bench.meter.flops += count_all(gradients)
        found = dict(zip(absolute, gradients(), strict=True))
    finally:
        bench.module.train()
    if not all(bool(one.isfinite().all()) for one in found.values()):
        raise ConfigError("synflow: the flow through the network must be finite; use another criterion")
    return {name: one.to(CPU) for name, one in found.items()}


def uses(bench: Bench) -> dict[str, float]:
    """How often one example uses a weight of each prunable tensor (see `flops.count_uses`)."""
    (inputs, _), module = first_examples(bench.task.pool, 1), bench.structure
    module.eval()
    try:
        found = count_uses(module, lambda: module(inputs))
    finally:
        module.train()
    bench.meter.flops += bench.cost.forward
    return {name: found[name] for name in bench.layout.prunable}


STATISTICS: Mapping[str, Callable[[Tensor], Tensor]] = {"mean": torch.abs, "nonzero": lambda seen: seen != 0}
"""What is averaged of an activation: its size, or whether it is there at all (one less the APoZ of Hu et al., 2016)."""


def activations(bench: Bench, groups: Groups, batches: Sequence[Tensor], statistic: str = "mean") -> dict[str, Tensor]:
    """How active units are, as the layers that read them see it: one mean a unit, over examples and positions.

    Args:
        bench: The module, whole or smaller, with the weights to probe loaded.
        groups: The channels of the whole model.
        batches: Positions of the examples, batch by batch.
        statistic: ``mean`` of the absolute activation, or ``nonzero``, the share of activations that are not zero.

    Returns:
        By group of the whole model, one number a unit; zero for units that a smaller one has not.

    Raises:
        ConfigError: A group is read by no linear, convolutional or recurrent layer of its own.
    """
    measure = STATISTICS[lookup("statistic", statistic, list(STATISTICS))]
    sums, seen = (torch.zeros(groups.total, dtype=torch.float64) for _ in range(2))
    read = torch.zeros(groups.total, dtype=torch.bool)

    def look(labels: Tensor, channel: int, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = measure(given[0].detach()).movedim(channel, 0).flatten(1).double()
        own = labels >= 0
        sums.index_add_(0, labels[own], values.sum(1).to(CPU)[own])
        seen.index_add_(0, labels[own], torch.full((int(own.sum()),), float(values.shape[1]), dtype=torch.float64))

    bench.module.eval()
    try:
        with ExitStack() as stack, torch.no_grad():
            for layer, labels, channel, whole in _readers(bench, groups):
                read[whole[whole >= 0]] = True
                handle = layer.register_forward_pre_hook(partial(look, labels, channel))
                stack.callback(handle.remove)
            for positions in batches:
                bench.module(bench.task.pool.batch(positions)[0])
                bench.meter.flops += bench.cost.forward * len(positions)
    finally:
        bench.module.train()
    unread = [name for name, own in groups.by_group(read).items() if not bool(own.all())]
    if unread:
        raise ConfigError(f"activations of {unread[0]!r} cannot be seen: no layer reads them; use another importance")
    return groups.by_group((sums / seen.clamp(min=1)).float())


def _readers(bench: Bench, groups: Groups) -> Iterator[tuple[nn.Module, Tensor, int, Tensor]]:
    """Layers that read units: the layer, the unit of each of its channels, their dimension, the same of the whole."""
    layers = dict(bench.module.named_modules())
    for name, axes in groups.axes.items():
        path, _, own = name.rpartition(".")
        layer = layers.get(path)
        for dim, labels in enumerate(axes):
            if labels is None or "in" not in groups.roles.get((name, dim), ()):
                continue
            dense = isinstance(layer, nn.Linear) or (isinstance(layer, nn.RNNBase) and own == "weight_ih_l0")
            if layer is not None and own.startswith("weight") and (dense or isinstance(layer, nn.modules.conv._ConvNd)):
                index = bench.places[name].index if name in bench.places else None
                yield layer, labels if index is None else labels[index[dim]], -1 if dense else 1, labels
