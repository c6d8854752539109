"""What a method may ask of a network besides its gradient: curvature, the flow through it, uses of its weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbonsai.core.errors import ConfigError
from fedbonsai.learning.bench import Bench
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
    mean = {name: one.clone() for name, one in bench.gradient(iter(batches)).items()}
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
    return total


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
    return found


def uses(bench: Bench) -> dict[str, float]:
    """How often one example uses a weight of each prunable tensor (see `flops.count_uses`)."""
    inputs, _ = bench.task.pool.batch(torch.zeros(1, dtype=torch.long))
    bench.module.eval()
    try:
        found = count_uses(bench.module, lambda: bench.module(inputs))
    finally:
        bench.module.train()
    bench.meter.flops += bench.cost.forward
    return {name: found[name] for name in bench.layout.prunable}
