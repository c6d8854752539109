"""One module and its flat buffers, set up once a process and used for every client in turn."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from fedbonsai.core.channels import Groups
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.layout import Layout
from fedbonsai.core.seeds import seeded
from fedbonsai.core.state import Tensors
from fedbonsai.core.support import Support
from fedbonsai.learning.calls import under_way
from fedbonsai.learning.compiled import Forward, compiled
from fedbonsai.learning.device import CPU
from fedbonsai.learning.flops import Cost, count
from fedbonsai.learning.kernels import Gradients, make_gradients
from fedbonsai.learning.layout import layout_of
from fedbonsai.learning.machine import keep_freed_memory
from fedbonsai.learning.objective import Batch, Live, Objective, nothing
from fedbonsai.learning.task import Pool, PreparedTask
from fedbonsai.learning.work import Optimizer, Work, make_optimizer
from fedbonsai.sparsity.channels import extract, gather, grids, kept_units, trace

EVALUATION_BATCH = 200
STRUCTURES = 8
"""Smaller modules that a bench keeps, and sets of units: tiers are few, personal models many."""


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and metric over ``examples`` examples."""

    loss: float
    metric: float
    examples: int


@dataclass
class Meter:
    """Floating-point operations that were really computed; a mask saves none."""

    flops: int = 0


def channels_of(task: PreparedTask, module: nn.Module) -> Groups:
    """The channels of a task's model, found by running it; a group norm gives up equally many of each of its groups.

    Raises:
        ConfigError: The model cannot be traced; the message names the layer.
    """
    inputs, _ = first_examples(task.pool)
    return trace(module, inputs, group_norm="even")


def first_examples(pool: Pool, most: int = 2) -> tuple[Tensor, Tensor]:
    """The first few examples on the CPU, for what looks at the structure of a model."""
    inputs, targets = pool.batch(torch.arange(min(most, len(pool))))
    return inputs.cpu(), targets.cpu()


@dataclass(frozen=True, eq=False)
class _Cut:
    """What is left of a model: how many units of each group, where its tensors sit, and what they began with."""

    counts: tuple[int, ...]
    places: Mapping[str, Support]
    initial: Tensors


def _forget(known: dict[Any, Any]) -> None:
    """Let go of the oldest where there are too many."""
    if len(known) > STRUCTURES:
        del known[next(iter(known))]


@dataclass
class Bench:
    """A module whose parameters are views of one flat vector, and another vector that their gradients are put into.

    Loading a client's weights is a copy, an optimizer step a few operations on one vector, and nothing is built a
    second time: no deep copy, data loader or optimizer a client.

    Attributes:
        task: What is learned.
        work: The local work that clients do.
        seed: The seed of the run.
        layout: Every tensor of the module.
        meter: FLOPs since it was last read.
        cost: FLOPs of one example, counted on a real batch.
        places: Where the tensors of a smaller module sit in those of the whole one.
        kernel: How training is computed; see `kernels`.
        device: Where module and data are. What is loaded and what is given back is on the CPU.
    """

    task: PreparedTask
    work: Work
    seed: int
    layout: Layout = field(init=False)
    meter: Meter = field(default_factory=Meter)
    cost: Cost = field(init=False)
    places: Mapping[str, Support] = field(default_factory=dict)
    kernel: str = "loop"
    device: torch.device = CPU

    def __post_init__(self) -> None:
        keep_freed_memory()
        with seeded(self.seed, "model"):
            self.module: nn.Module = self.task.model()
        self.layout = layout_of(self.module)
        odd = [name for name, one in self.module.named_parameters() if one.dtype != torch.float32]
        if odd or not any(True for _ in self.module.parameters()):
            raise ConfigError(f"a model needs parameters, all of them float32, got {odd or 'none'}")
        self.cost = self._count_flops()  # on the CPU: what is counted is the same wherever it is computed
        # What looks at layers and not at weights does so on the CPU.
        self.structure = self.module if self.device == CPU else copy.deepcopy(self.module)
        self.module, self.task = self.module.to(self.device), self.task.on(self.device)
        self._buffers = {
            name: one for name, one in self.module.named_buffers() if any(s.name == name for s in self.layout.slots)
        }
        self._counters = [(one, one.clone()) for name, one in self.module.named_buffers() if name not in self._buffers]
        parameters = dict(self.module.named_parameters())
        self.flat = torch.cat([one.detach().reshape(-1) for one in parameters.values()])
        self._views = self.views(self.flat)
        for name, one in parameters.items():
            one.data = self._views[name]
        self._parameters = parameters
        self._trained = [one for one in parameters.values() if one.requires_grad]
        self._frozen = [name for name, one in parameters.items() if not one.requires_grad]
        self.has_batch_norm = any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in self.module.modules())
        self._initial: Tensors = self.weights()
        self._smaller: dict[tuple[int, ...], Bench] = {}
        self._cuts: dict[tuple[tuple[str, bytes], ...], _Cut] = {}

    @cached_property
    def live(self) -> Live:
        """The model as objectives see it. Its two vectors are made for the first training: a server never trains."""
        gradient, anchor = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        return Live(self._parameters, self.views(gradient), self.views(anchor), self.flat, gradient, anchor)

    @cached_property
    def optimizer(self) -> Optimizer:
        """Of the local training; what it remembers is as large as the model, or twice that."""
        return make_optimizer(self.work, self.flat)

    @cached_property
    def batched(self) -> Gradients | None:
        """What computes the gradients of several clients at once; None when the kernel trains one after the other.

        Raises:
            ConfigError: The kernel cannot train this model.
        """
        with seeded(self.seed, "kernel"):
            return make_gradients(self.kernel, self.module, self.task)

    @cached_property
    def forward(self) -> Forward:
        """What a step runs its batch through: the module, or what the compiler has made of it.

        Raises:
            ConfigError: It cannot be compiled.
        """
        if self.kernel != "compiled":
            return self.module
        before = {name: one.clone() for name, one in self.module.named_buffers()}
        with seeded(self.seed, "kernel"):
            found = compiled(self.module, self.task, (2,) if self.has_batch_norm else (2, 1))
        for name, one in self.module.named_buffers():
            one.copy_(before[name])
        return found

    def able(self) -> str:
        """The kernel of the bench, or the loop where that cannot train its module: a smaller one of another's.

        Smaller modules are many and live shortly, so they are not compiled.
        """
        if self.kernel == "compiled":
            return "loop"
        try:
            return self.kernel if self.batched else "loop"
        except ConfigError:
            return "loop"

    @cached_property
    def channels(self) -> Groups:
        """The channels of the model; see `channels_of`."""
        with seeded(self.seed, "channels"):
            return channels_of(self.task, self.structure)

    def smaller(self, supports: Mapping[str, Support]) -> "Bench":
        """A bench whose module is physically smaller: of the units that ``supports`` keep, at its initial values.

        Modules of the last few structures are kept, and the next client of one only loads its weights.

        Args:
            supports: Of tensors of the model, grids of the same units; see `grids`.

        Raises:
            SupportError: They are masks, or grids that do not agree.
        """
        key = tuple((name, one.digest) for name, one in supports.items())
        if key not in self._cuts:
            keep = kept_units(self.channels, supports)
            places = grids(self.channels, keep)
            self._cuts[key] = _Cut(tuple(map(len, keep.values())), places, gather(self._initial, places))
            _forget(self._cuts)
        cut = self._cuts[key]
        if cut.counts == tuple(self.channels.units.values()):
            return self
        found = self._smaller.pop(cut.counts, None)
        if found is None:
            module, _ = extract(self.structure, self.channels, kept_units(self.channels, supports))
            task = replace(self.task, model=lambda: module)
            found = Bench(task, self.work, self.seed, meter=self.meter, kernel=self.kernel, device=self.device)
            found.kernel = found.able()
        self._smaller[cut.counts] = found  # the last one to go
        _forget(self._smaller)
        found.places, found._initial = cut.places, cut.initial
        return found

    @property
    def flat_gradient(self) -> Tensor:
        """All gradients, end to end."""
        return self.live.flat_gradient

    @property
    def flat_anchor(self) -> Tensor:
        """All parameters that training began with, end to end."""
        return self.live.flat_anchor

    @cached_property
    def _gradients(self) -> list[Tensor]:
        return [self.live.gradients[name] for name, one in self._parameters.items() if one.requires_grad]

    @cached_property
    def _moved(self) -> list[Tensor]:
        return [self._views[name] for name, one in self._parameters.items() if one.requires_grad]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters in ``flat``, each a view of its shape; of several clients' rows, a row each."""
        slots = self.layout.parameters
        pieces = torch.split(flat, [slot.numel for slot in slots], dim=-1)
        return {slot.name: one.view(*flat.shape[:-1], *slot.shape) for slot, one in zip(slots, pieces, strict=True)}

    @property
    def initial(self) -> Tensors:
        """The weights that the module was made with: those of the whole run's beginning."""
        return self._initial

    def weights(self) -> dict[str, Tensor]:
        """A copy of every tensor of the model: parameters as views of one new vector, then buffers."""
        return {**self.views(self.flat.to(CPU, copy=True)), **self.buffers()}

    def buffers(self) -> dict[str, Tensor]:
        """A copy of the statistics that belong to the model."""
        return {name: one.detach().to(CPU, copy=True) for name, one in self._buffers.items()}

    def load(self, weights: Tensors) -> None:
        """Copy weights into the module; a tensor that is not named takes its initial value."""
        for name, view in (self._views | self._buffers).items():
            view.copy_(weights[name] if name in weights else self._initial[name])
        for counter, initial in self._counters:  # no part of the model: what one client counted is nothing to the next
            counter.copy_(initial)

    def flat_mask(self, supports: Mapping[str, Support]) -> Tensor | None:
        """One float per parameter, 1 = present; None when all of them are."""
        if not supports:
            return None
        mask = torch.ones(self.flat.shape)
        for name, view in self.views(mask).items():
            if name in supports:
                view.copy_(supports[name].indicator())
        return mask.to(self.device)

    def near(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """Positions of the examples of every step where the data are, brought there at once."""
        if self.device == CPU:
            return batches
        return torch.split(torch.cat(list(batches)).to(self.device), [*map(len, batches)])

    def step(self, positions: Tensor, *, lr: float, mask: Tensor | None, objective: Objective) -> Tensor:
        """Make one optimizer step on a batch and return its loss, without waiting for its value."""
        loss, found = self._differentiated(positions, objective)
        if self.work.plain and mask is None and not objective.acts:
            # Nobody looks at the gradient: it goes from where autograd made it into the weights, without a copy.
            torch._foreach_add_(self._moved, found, alpha=-lr)
            return loss
        self._collect(found)
        if objective.gradient is not None:
            with torch.no_grad():
                objective.gradient(self.live)
        if mask is not None:
            self.flat_gradient.mul_(mask)
        if self.work.clip is not None:
            norm = torch.linalg.vector_norm(self.flat_gradient)
            self.flat_gradient.mul_((self.work.clip / (norm + 1e-6)).clamp(max=1.0))
        self.optimizer.step(self.flat, self.flat_gradient, lr)
        for name in self._frozen:  # weight decay must not move them either
            self._views[name].copy_(self.live.anchor[name])
        if objective.after_step is not None:
            with torch.no_grad():
                objective.after_step(self.live)
                if mask is not None:
                    self.flat.mul_(mask)
        return loss

    def gradient(self, batches: Iterator[Tensor]) -> dict[str, Tensor]:
        """The mean gradient of the loss over all examples in ``batches``; the module keeps its weights."""
        total, examples = torch.zeros_like(self.flat), 0
        for positions in batches:
            self._collect(self._differentiated(positions, Objective())[1])
            total.add_(self.flat_gradient, alpha=len(positions))
            examples += len(positions)
        return self.views(total.div_(max(examples, 1)).to(CPU))

    def output(self, batch: Batch, tensors: Tensors | None = None, *, changed: bool = False) -> Tensor:
        """What the module gives for a batch that is trained on; charged for the way there and back.

        Args:
            batch: The batch.
            tensors: What the module runs with in place of its own tensors, by name. Gradients flow into them, and
                batch norms move the statistics that are among them.
            changed: Whether something was done to the module that its compiler has not seen, such as hooks.
        """
        self.meter.flops += (self.cost.forward + self.cost.backward) * len(batch.targets)
        if tensors is None:
            outputs: Tensor = self.module(batch.inputs) if changed else self.forward(batch.inputs)
            return outputs
        outputs = torch.func.functional_call(self.module, dict(tensors), (batch.inputs,))
        return outputs

    def evaluate(self, pool: Pool, positions: Tensor | None = None, *, threads: int = 1) -> Evaluation:
        """Mean loss and metric of the loaded weights on a pool, or on some positions of it; 0 where there are none.

        Args:
            pool: The examples.
            positions: Which of them; None takes all.
            threads: Batches that are judged side by side on the CPU. Their sums are added in order: equal bits for any
                number.
        """
        threads = threads if self.device == CPU else 1
        positions = torch.arange(len(pool)) if positions is None else positions
        chunks = torch.split(positions, EVALUATION_BATCH) if len(positions) else ()
        self.module.eval()
        try:
            # A new thread's first products would take as many threads as there are cores, to other last bits.
            alike = partial(torch.set_num_threads, torch.get_num_threads())
            with seeded(self.seed, "evaluation"), ThreadPoolExecutor(threads, initializer=alike) as workers:
                judge = partial(self._judge, pool)
                found = list(workers.map(judge, chunks) if threads > 1 else map(judge, chunks))
        finally:  # the next client trains on this module, whatever went wrong with this one
            self.module.train()
        examples = len(positions)
        self.meter.flops += self.cost.forward * examples
        # Read all at once, so that an accelerator is not waited for after every batch.
        loss, metric = map(sum, torch.stack(found, 1).tolist()) if found else (0.0, 0.0)
        return Evaluation(loss / max(examples, 1), metric / max(examples, 1), examples)

    def _judge(self, pool: Pool, chunk: Tensor) -> Tensor:
        """Sums of loss and metric over one batch, where they were computed."""
        with torch.inference_mode():
            inputs, targets = pool.batch(chunk)
            outputs = self.module(inputs)
            loss = self.task.loss.function(outputs, targets).double() * len(chunk)
            return torch.stack([loss, self.task.loss.per_example(outputs, targets).double().sum()])

    def estimate_statistics(self, positions: Tensor) -> dict[str, Tensor]:
        """Batch-norm statistics of the loaded weights: the average over batches of ``positions``, no momentum."""
        norms = [one for one in self.module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        before = [one.momentum for one in norms]
        for one in norms:
            one.reset_running_stats()
            one.momentum = None
        try:
            with torch.no_grad():
                for chunk in torch.split(positions, EVALUATION_BATCH):
                    if len(chunk) > 1:
                        self.module(self.task.pool.batch(chunk)[0])
                        self.meter.flops += self.cost.forward * len(chunk)
        finally:
            for one, momentum in zip(norms, before, strict=True):
                one.momentum = momentum
        return self.buffers()

    def _differentiated(self, positions: Tensor, objective: Objective) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of a batch, and its gradients where autograd made them."""
        loss = self._loss(Batch(*self.task.pool.batch(positions), self.task.loss.function), objective)
        total = loss if objective.penalty is None else loss + objective.penalty(self.live)
        found = torch.autograd.grad(total, self._trained, allow_unused=True, materialize_grads=True)
        return loss.detach(), found

    def _collect(self, found: tuple[Tensor, ...]) -> None:
        """Put the gradients into their vector."""
        torch._foreach_copy_(self._gradients, found)  # cheaper than zeroing ours and adding up in them
        for name in self._frozen:  # an optimizer may leave its weight decay there
            self.live.gradients[name].zero_()

    def _loss(self, batch: Batch, objective: Objective) -> Tensor:
        if objective.loss is not None:
            return objective.loss(self.live, batch)
        effective = None if objective.effective is None else objective.effective(self.live)
        changed = objective.around is not nothing
        return batch.loss(self.output(batch, effective, changed=changed), batch.targets)

    def _count_flops(self) -> Cost:
        inputs, targets = first_examples(self.task.pool)
        self.module.eval()
        with under_way(self.module) as layers:
            try:
                with seeded(self.seed, "flops"):
                    cost = count(lambda: self.task.loss.function(self.module(inputs), targets), len(targets))
            except (RuntimeError, IndexError, TypeError, ValueError) as error:
                place = layers[-1] if layers else "the loss"
                raise ConfigError(
                    f"model, loss and data must fit each other, on the first examples: {place}: {error}"
                ) from error
        self.module.train()
        self.module.zero_grad(set_to_none=True)
        return cost
