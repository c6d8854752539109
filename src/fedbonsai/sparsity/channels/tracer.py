"""Follow channels through one eager run of a model: every operator is seen by name, on its real tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedbonsai.core.errors import ConfigError
from fedbonsai.sparsity.channels.atoms import Atoms, Dims, Labels, plain, sizes_of
from fedbonsai.sparsity.channels.names import ASKS, SILENT, by_mask, flat, spelled

Rule = Callable[["Tracer", "Call"], list[Dims]]
"""What an operator does to channels: the labels of each tensor that it returns."""


@dataclass(frozen=True)
class Call:
    """One operator that a model calls.

    Attributes:
        name: Its name, as rules are found by: ``add`` for ``__radd__``, ``add_`` and ``torch.add`` alike.
        func: The function itself.
        args: Its arguments.
        kwargs: Its named arguments.
        result: What it returned.
    """

    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any

    def arg(self, place: int, name: str, default: object = None) -> Any:  # noqa: ANN401
        """An argument by its place or else by its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


@dataclass(frozen=True)
class Read:
    """A weight that reads channels along a dimension, the bias that could take constants over, what values it saw."""

    weight: str
    dim: int
    bias: str | None
    low: Tensor
    high: Tensor


@dataclass
class Record:
    """What one or several runs of a model found."""

    evenly: bool
    probing: bool = False
    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[str, Dims] = field(default_factory=dict)
    roles: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    attributes: dict[tuple[str, str, int | None], Labels] = field(default_factory=dict)
    spanned: list[Labels] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    instead: Mapping[str, "Instead"] = field(default_factory=dict)
    hear: "Callable[[Tracer, object], None] | None" = None


Instead = Callable[["Tracer", Call], Tensor]
"""What is computed in place of an operator."""


class Tracer(TorchFunctionMode):
    """Sees every operator of a model while it is active, and keeps the labels of every tensor in flight."""

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule], record: Record) -> None:
        super().__init__()
        self.rules, self.record, self.atoms = rules, record, record.atoms
        self._stack: list[tuple[str, nn.Module]] = [("", model)]
        self._flows: dict[int, tuple[Tensor, Dims, bool]] = {}
        self._made: dict[int, str] = {}
        self._tainted: dict[int, tuple[Labels, str]] = {}
        self.names: dict[int, str] = {}
        for name, one in [*model.named_parameters(), *model.named_buffers()]:
            if one.is_floating_point():
                if name not in record.axes:
                    record.axes[name] = [self.atoms.fresh(size) for size in one.shape]
                self._flows[id(one)] = (one, record.axes[name], True)
                self.names[id(one)] = name

    def enter(self, path: str, module: nn.Module) -> None:
        """A module begins its forward pass."""
        self._stack.append((path, module))

    def leave(self, output: object) -> None:
        """The module that began last is done."""
        if self.record.hear is not None:
            self.record.hear(self, output)
        self._stack.pop()

    @property
    def evenly(self) -> bool:
        """Whether group norm gives up equally many channels of each group rather than whole groups."""
        return self.record.evenly

    @property
    def probing(self) -> bool:
        """Whether values are recorded where weights read them."""
        return self.record.probing

    @property
    def module(self) -> nn.Module:
        """The module whose code runs."""
        return self._stack[-1][1]

    @property
    def path(self) -> str:
        """Its path in the model."""
        return self._stack[-1][0]

    @property
    def stack(self) -> list[tuple[str, nn.Module]]:
        """The modules whose code runs, the innermost last."""
        return self._stack

    @property
    def place(self) -> str:
        """The module whose code runs, for messages."""
        path, module = self._stack[-1]
        return f"layer {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"

    def feed(self, tensor: Tensor) -> None:
        """Register an input of the model."""
        self._flows[id(tensor)] = (tensor, [plain(size) for size in tensor.shape], False)

    def dims(self, tensor: Tensor) -> Dims:
        """The labels of a tensor in flight."""
        known = self._flows.get(id(tensor))
        return list(known[1]) if known else [plain(size) for size in tensor.shape]

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on nothing but parameters and constants."""
        known = self._flows.get(id(tensor))
        return known is None or known[2]

    def made_here(self, tensor: Tensor) -> bool:
        """Whether the module whose code runs made a tensor out of nothing, as ``torch.zeros`` does."""
        return self._made.get(id(tensor)) == self.path

    def refuse(self, what: str) -> ConfigError:
        """The error for what cannot be grouped."""
        return ConfigError(f"{self.place}: {what}")

    def unite(self, one: Labels, other: Labels, name: str) -> None:
        """Let two dimensions of equal size keep the same channels."""
        if len(one) != len(other):
            raise self.refuse(f"{name} meets {len(one)} and {len(other)} channels, which cannot be the same")
        self.atoms.unite(one, other, f"{self.place}: {name} with what is no channel of a layer, such as an input")

    def match(self, one: Labels, other: Labels, name: str) -> None:
        """Let two dimensions keep equally many channels: the same ones, unless they are the same in another order."""
        if sorted(self.atoms.roots(one).tolist()) != sorted(self.atoms.roots(other).tolist()):
            self.unite(one, other, name)

    def fix(self, labels: Labels, why: str) -> None:
        """Let channels stay, because of what happens here."""
        self.atoms.fix(labels, f"{self.place}: {why}")

    def count(self, labels: Labels) -> None:
        """Let channels stay whose number is part of a value."""
        self.fix(labels, "a value is computed from the number of channels")

    def mark(self, tensor: Tensor | None, dim: int, role: str) -> None:
        """Say what a dimension of a parameter is for: ``out`` makes channels, ``in`` reads them, ``own`` does both."""
        if tensor is not None and id(tensor) in self.names:
            self.record.roles.setdefault((self.names[id(tensor)], dim), set()).add(role)

    def taint(self, tensor: Tensor, labels: Labels, why: str) -> None:
        """Let channels stay if ``tensor`` is ever used."""
        self._tainted[id(tensor)] = (labels, why)

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Take note that tensors are used."""
        for one in tensors:
            if id(one) in self._tainted:
                self.fix(*self._tainted[id(one)])
            if id(one) in self.names:
                self.record.used.add(self.names[id(one)])

    def attribute(self, name: str, labels: Labels, index: int | None = None, path: str | None = None) -> None:
        """Let an attribute of a module be the number of ``labels`` that are kept."""
        key = (self.path if path is None else path, name, index)
        before = self.record.attributes.setdefault(key, labels)
        if before is not labels:
            self.unite(before, labels, f"{name} of a module called twice")

    def written(self, value: int, labels: Labels) -> bool:
        """Find the attribute from which the code has ``value``, and let it follow ``labels``; False if none is sure."""
        found = [name for name, one in vars(self.module).items() if type(one) is int and one == value]
        if len(found) == 1 and self.path:
            self.attribute(found[0], labels)
        elif len(found) == 1:
            self.attribute(found[0], labels, path="")
        return len(found) == 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        name, kwargs = spelled(func), kwargs or {}
        tensors = list(flat((args, kwargs)))
        if name not in SILENT:
            self.use(tensors)
        asks = name in ASKS or (name == "where" and len(args) == 1) or (name == "getitem" and by_mask(args[1]))
        if asks and not all(self.is_weight(one) for one in tensors):
            raise self.refuse(
                f"{name} makes what is computed depend on values; channels can only be followed through a model that "
                "does the same for every input: replace it by torch.where or a multiplication"
            )
        if name in self.record.instead:
            result = self.record.instead[name](self, Call(name, func, tuple(args), kwargs, None))
        else:
            result = _batch_norm(*args, **kwargs) if name == "batch_norm" else func(*args, **kwargs)
        if name in ("shape", "size"):
            return self._sizes(args[0], result)
        if name == "setitem":
            self._written_into(tensors)
        found = list(flat(result))
        if found:
            self._follow(Call(name, func, tuple(args), kwargs, result), tensors, found)
        return result

    def _sizes(self, tensor: Tensor, result: Any) -> Any:  # noqa: ANN401
        sizes = sizes_of(tensor.shape, self.dims(tensor), self.count)
        if isinstance(result, torch.Size):
            return torch.Size(sizes)
        return next((one for one, own in zip(sizes, self.dims(tensor), strict=True) if one == result), result)

    def _written_into(self, tensors: list[Tensor]) -> None:
        for labels in (own for one in tensors for own in self.dims(one)):
            self.fix(labels, "written into a tensor")
        target = tensors[0]
        self._flows[id(target)] = (target, self.dims(target), all(self.is_weight(one) for one in tensors))

    def _follow(self, call: Call, tensors: list[Tensor], found: list[Tensor]) -> None:
        rule = self.rules.get(call.name)
        if rule is not None:
            dims = rule(self, call)
        elif any((own >= 0).any() for one in tensors for own in self.dims(one)):
            raise self.refuse(
                f"the operator {call.name} is not known to the channel service, and channels reach it; use operators "
                "that it knows, or prune this model by masks instead"
            )
        else:
            dims = [[plain(size) for size in one.shape] for one in found]
        light = all(self.is_weight(one) for one in tensors)
        for one, own in zip(found, dims, strict=True):
            if [len(labels) for labels in own] != list(one.shape):
                raise self.refuse(
                    f"the operator {call.name} gave {tuple(one.shape)}, which is not what it usually does"
                )
            self._flows[id(one)] = (one, own, light)
            if not tensors:
                self._made[id(one)] = self.path


def _batch_norm(inputs: Tensor, mean: Tensor | None, variance: Tensor | None, *rest: Any, **named: Any) -> Tensor:  # noqa: ANN401
    """Batch norm that moves no statistics and takes a batch of one, in training mode too."""
    given = dict(zip(("weight", "bias", "training", "momentum", "eps"), rest, strict=False)) | named
    around = [dim for dim in range(inputs.dim()) if dim != 1]
    if given.get("training") or mean is None or variance is None:
        mean, variance = inputs.mean(around), inputs.var(around, correction=0)
    shape = [-1 if dim == 1 else 1 for dim in range(inputs.dim())]
    found: Tensor = (inputs - mean.view(shape)) / (variance.view(shape) + given.get("eps", 1e-5)).sqrt()
    for name, apply in (("weight", torch.mul), ("bias", torch.add)):
        if given.get(name) is not None:
            found = apply(found, given[name].view(shape))
    return found
