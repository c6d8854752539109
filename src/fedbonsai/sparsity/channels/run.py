"""Run a model once in training and once in evaluation mode, and record what its operators do to channels."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import OUTPUT
from fedbonsai.core.errors import ConfigError, FedbonsaiError
from fedbonsai.sparsity.channels import cut_rules, layer_rules, plain_rules, sequence_rules, view_rules
from fedbonsai.sparsity.channels.names import flat
from fedbonsai.sparsity.channels.tracer import Record, Tracer

RULES = {
    name: rule
    for table in (plain_rules, cut_rules, view_rules, layer_rules, sequence_rules)
    for name, rule in table.RULES.items()
}
"""All operators that are known, by name."""


def inputs_of(example: object) -> tuple[Tensor, ...]:
    """An example as the arguments of a model.

    Raises:
        ConfigError: It is neither a tensor nor several of them.
    """
    found = (example,) if isinstance(example, Tensor) else example
    if not isinstance(found, tuple | list) or not found or not all(isinstance(one, Tensor) for one in found):
        raise ConfigError(f"an example must be a tensor or a tuple of tensors, got {type(example).__name__}")
    return tuple(found)


def observe(model: nn.Module, inputs: tuple[Tensor, ...], *, evenly: bool, probing: bool = False) -> Record:
    """Run a copy of ``model`` on ``inputs`` in both modes; neither the model nor a random generator notices.

    Raises:
        ConfigError: The model does not run on the example, or something in it cannot be followed; names the layer.
    """
    record = Record(evenly, probing)
    twin = _copy(model)
    with torch.random.fork_rng(devices=[]), _slow_attention(), torch.no_grad():
        for training in (True, False):
            _run(twin.train(training), inputs, record)
    for name in set(record.axes) - record.used:
        for labels in record.axes[name]:
            record.atoms.fix(labels, "the model does not use it on the example")
    return record


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # what a model holds beside parameters, a weight that was computed say
        raise ConfigError(
            f"the model ({type(model).__name__}) must be one that can be copied, got {type(error).__name__}: {error}"
        ) from error


def compute(model: nn.Module, inputs: tuple[Tensor, ...], record: Record, seed: int) -> None:
    """Run ``model`` itself on ``inputs`` in evaluation mode, for what ``record`` hears.

    Raises:
        ConfigError: It does not run.
    """
    with torch.random.fork_rng(devices=[]), _slow_attention(), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        _run(model.eval(), as_precise(inputs, model), record)


def as_precise(inputs: tuple[Tensor, ...], model: nn.Module) -> tuple[Tensor, ...]:
    """The example in the type of a model, which need not be the one of the trace."""
    kinds = [one.dtype for one in model.parameters() if one.is_floating_point()][:1]
    return tuple(one.to(kinds[0]) if kinds and one.is_floating_point() else one for one in inputs)


def _run(model: nn.Module, inputs: tuple[Tensor, ...], record: Record) -> None:
    tracer = Tracer(model, RULES, record)
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(_entering(tracer, path)))
        handles.append(module.register_forward_hook(_leaving(tracer)))
    # Copies: a model may work in place, and the example is used again.
    inputs = tuple(one.detach().clone() for one in inputs)
    for one in inputs:
        tracer.feed(one)
    try:
        with tracer:
            outputs = list(flat(model(*inputs)))
    except FedbonsaiError:
        raise
    except Exception as error:  # whatever a model's own code raises
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
        raise ConfigError(
            f"{tracer.place} must run on the example, an input of shape {shapes}, got {type(error).__name__}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not outputs:
        raise ConfigError("the model must return tensors, alone or in tuples, lists or dictionaries")
    tracer.use(outputs)
    for labels in (own for one in outputs for own in tracer.dims(one)):
        record.atoms.fix(labels, OUTPUT)
    record.shapes[:] = [tuple(one.shape) for one in outputs]


def _entering(tracer: Tracer, path: str) -> Any:  # noqa: ANN401  a hook
    return lambda module, _: tracer.enter(path, module)


def _leaving(tracer: Tracer) -> Any:  # noqa: ANN401
    return lambda _, __, output: tracer.leave(output)


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Inside the block transformer layers run operator by operator."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
