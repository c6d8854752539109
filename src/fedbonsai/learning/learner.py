"""A client's model and data as a method may use them: fit, gradients, evaluate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice

import torch
from torch import Tensor

from fedbonsai.core.errors import ClientError, lookup
from fedbonsai.core.finite import all_finite
from fedbonsai.core.layout import Layout
from fedbonsai.core.seeds import generator, seeded
from fedbonsai.core.state import Tensors
from fedbonsai.core.support import Support
from fedbonsai.learning import probes
from fedbonsai.learning.bench import Bench, Evaluation
from fedbonsai.learning.cohort import Trained, Trainer, Training, alone, together
from fedbonsai.learning.device import CPU
from fedbonsai.learning.objective import Moment, Objective
from fedbonsai.learning.work import Work
from fedbonsai.sparsity.channels import gather

PARTS = ("train", "validation", "holdout")


@dataclass(frozen=True, eq=False)
class Fit:
    """What local training gave.

    Attributes:
        weights: The trained tensors, those that ``fit`` was given: whole, exact zeros off the supports.
        loss: Mean training loss over all examples seen, while training.
        examples: Examples that the client trains on, each counted once.
        steps: Optimizer steps that were made.
    """

    weights: Tensors
    loss: float
    examples: int
    steps: int


@dataclass
class Learner:
    """One client in one round. A method gets one and asks it for what it needs.

    Attributes:
        bench: The module that all clients of this process share.
        client: The client's number.
        turn: The turn of the run; names the randomness of this round.
        progress: Share of the run that is over, in [0, 1]; moves the learning rate.
        buffers: Batch-norm statistics that stay on the client; loaded over what a method loads.
        keep_buffers: Whether ``fit`` leaves its statistics in ``buffers`` instead of sharing them.
        whole: With a smaller model: the learner of the whole one.
        trainer: Trains what a batched kernel can; an engine may gather several clients' trainings in it.
    """

    bench: Bench
    client: int
    turn: int = 0
    progress: float = 0.0
    buffers: dict[str, Tensor] = field(default_factory=dict)
    keep_buffers: bool = False
    whole: "Learner | None" = None
    trainer: Trainer = alone

    @property
    def layout(self) -> Layout:
        """The model's tensors."""
        return self.bench.layout

    @property
    def num_examples(self) -> int:
        """Examples that this client trains on."""
        return len(self.bench.task.splits[self.client].train)

    @property
    def steps(self) -> int:
        """Optimizer steps that a round's training takes, unless ``fit`` is told otherwise."""
        return self._steps(self.bench.work)

    @property
    def epoch(self) -> int:
        """Optimizer steps of one pass over the training data."""
        return len(self._parts(self._positions()))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.bench.seed

    def smaller(self, supports: Mapping[str, Support]) -> "Learner":
        """The same client with the physically smaller model that ``supports`` leave of it.

        Its tensors have the shapes of the grids: what `Message.compact` gives of a task that was cut by them.

        Args:
            supports: Grids of the same units, of the tensors that came (`Bench.smaller`).

        Raises:
            SupportError: They are masks, or grids that do not agree.
        """
        bench = self.bench.smaller(supports)
        if bench is self.bench:
            return self
        buffers = gather(self.buffers, {name: bench.places[name] for name in self.buffers})
        return replace(self, bench=bench, buffers=buffers, whole=self)

    def fit(  # noqa: PLR0913  each of the four is needed alone, by some method
        self,
        weights: Tensors,
        supports: Mapping[str, Support] | None = None,
        *,
        objective: Objective | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        part: int = 0,
    ) -> Fit:
        """Train ``weights`` on the client's data.

        Args:
            weights: Where training begins, whole tensors; a tensor that is not named takes its initial value.
            supports: Where weights are present; elsewhere they stay exactly zero, whatever the optimizer.
            objective: What the method adds to the loss, the gradients or the steps.
            epochs: Passes over the data, in place of what the run is set to.
            steps: Optimizer steps, in place of what the run is set to.
            part: Which part of a round's training this is, for a client that trains in several: each shuffles anew.

        Raises:
            ClientError: The client has no training examples, or its loss stopped being a number.
        """
        bench, objective = self.bench, objective or Objective()
        batches = self._batches(epochs, steps, part)
        bench.load({**weights, **self.buffers})
        mask = bench.flat_mask(supports or {})
        if mask is not None:
            bench.flat.mul_(mask)
        if bench.batched is not None and together(objective):
            lr = bench.work.learning_rate(self.progress)
            done = self.trainer(Training(bench, bench.flat.clone(), mask, batches, lr, objective))
            bench.meter.flops += done.flops
        else:
            with seeded(self.seed, _part("dropout", part), self.turn, self.client), objective.around(bench.module):
                done = self._loop(mask, batches, objective)
        flat = done.flat.to(CPU)
        if not math.isfinite(done.loss) or not all_finite(flat):
            raise ClientError(f"client {self.client}: the training loss must stay finite, got {done.loss}")
        trained = bench.views(flat) | bench.buffers()
        if self.keep_buffers:
            self._keep({slot.name: trained[slot.name] for slot in self.layout.slots if slot.buffer})
        mean = done.loss / sum(map(len, batches))
        return Fit({name: trained[name] for name in weights}, mean, self.num_examples, len(batches))

    def _loop(self, mask: Tensor | None, batches: Sequence[Tensor], objective: Objective) -> Trained:
        """Train the loaded weights step by step."""
        bench = self.bench
        bench.flat_anchor.copy_(bench.flat)
        bench.optimizer.reset()
        base, total = bench.work.learning_rate(self.progress), torch.zeros((), device=bench.device)
        for step, positions in enumerate(bench.near(batches)):
            moment = Moment(step, len(batches), base)
            lr = base if objective.learning_rate is None else objective.learning_rate(bench.live, moment)
            total.add_(bench.step(positions, lr=lr, mask=mask, objective=objective), alpha=len(positions))
        return Trained(bench.flat.clone(), float(total))

    def near(self, tensors: Tensors) -> dict[str, Tensor]:
        """The same tensors where the model trains, for an objective that computes with them at every step."""
        return {name: one.to(self.bench.device) for name, one in tensors.items()}

    def gradients(self, weights: Tensors, *, batches: int | None = None) -> dict[str, Tensor]:
        """The mean gradient of the loss at ``weights``, of every parameter, present or not.

        Args:
            weights: Where to take it.
            batches: How many batches of the training data to use; None uses all of it.

        Raises:
            ClientError: The client has no training examples.
        """
        self.bench.load({**weights, **self.buffers})
        parts = self._parts(self._positions())
        with seeded(self.seed, "gradients", self.turn, self.client):
            return self.bench.gradient(iter(parts[:batches]))

    def hessian_gradient(self, weights: Tensors, *, batches: int | None = None) -> dict[str, Tensor]:
        """The Hessian of the mean loss at ``weights`` times its gradient, of every parameter (GraSP's ``H g``).

        Raises:
            ClientError: The client has no training examples.
        """
        self.bench.load({**weights, **self.buffers})
        parts = self._parts(self._positions())
        with seeded(self.seed, "gradients", self.turn, self.client):
            return probes.hessian_gradient(self.bench, parts[:batches])

    def flow_gradient(self, weights: Tensors) -> dict[str, Tensor]:
        """The gradient of the flow through a network of absolute weights (SynFlow); needs no data but its shape."""
        self.bench.load({**weights, **self.buffers})
        return probes.flow_gradient(self.bench)

    def classes(self) -> Tensor | None:
        """The classes that this client has training examples of, increasing; None where the task has no classes."""
        task = self.bench.task
        if task.loss.name not in ("cross_entropy", "next_token"):
            return None
        found: Tensor = torch.unique(task.pool.targets[self._positions()].long()).to(CPU)
        return found

    def activations(
        self, weights: Tensors, statistic: str = "mean", *, batches: int | None = None
    ) -> dict[str, Tensor]:
        """How active the units of the model are on the client's training data, by group of the whole model's channels.

        Args:
            weights: Where to look; of a smaller model, its own.
            statistic: ``mean`` absolute activation, or the share of those that are not zero (``nonzero``).
            batches: How many batches of the training data to use; None uses all of it.

        Raises:
            ClientError: The client has no training examples.
            ConfigError: A group is read by no layer of its own, or the model cannot be traced.
        """
        self.bench.load({**weights, **self.buffers})
        groups = (self.whole or self).bench.channels
        with seeded(self.seed, "activations", self.turn, self.client):
            return probes.activations(self.bench, groups, self._parts(self._positions())[:batches], statistic)

    def uses(self) -> dict[str, float]:
        """How often one example uses a weight of each prunable tensor: what a weight costs to compute with."""
        return probes.uses(self.bench)

    def evaluate(self, weights: Tensors, part: str = "validation") -> Evaluation:
        """Mean loss and metric at ``weights`` on one part of the client's data.

        Args:
            weights: What to evaluate.
            part: ``validation``; ``train``; or ``holdout``, for the evaluation of personal models alone. A client
                without validation examples is judged on its training examples.

        Raises:
            ConfigError: There is no such part.
        """
        split = self.bench.task.splits[self.client]
        positions: Tensor = getattr(split, lookup("part", part, PARTS))
        if part == "validation" and not len(positions):
            positions = split.train
        self.bench.load({**weights, **self.buffers})
        return self.bench.evaluate(self.bench.task.pool, positions)

    def statistics(self, weights: Tensors) -> dict[str, Tensor]:
        """Batch-norm statistics of ``weights`` on the client's training data."""
        self.bench.load(weights)
        with seeded(self.seed, "statistics", self.turn, self.client):
            return self.bench.estimate_statistics(self._positions())

    def _keep(self, buffers: dict[str, Tensor]) -> None:
        """Leave statistics here, and in the whole model's, which has its own of the units that are not here."""
        self.buffers = buffers
        if self.whole is not None:
            before = {**self.whole.bench.initial, **self.whole.buffers}
            self.whole.buffers = {
                name: self.bench.places[name].replaced(before[name], one.reshape(-1)) for name, one in buffers.items()
            }

    def _positions(self) -> Tensor:
        return self.bench.task.splits[self.client].train

    def _parts(self, positions: Tensor) -> tuple[Tensor, ...]:
        """Positions in batches; a batch norm cannot be trained on one example, so one left over stays out."""
        if not len(positions):
            raise ClientError(f"client {self.client} needs training examples, got none")
        parts = torch.split(positions, self.bench.work.batch_size)
        left_over = self.bench.has_batch_norm and len(parts[-1]) == 1 < len(parts[0])
        return parts[:-1] if left_over else parts

    def _batches(self, epochs: int | None, steps: int | None, part: int) -> tuple[Tensor, ...]:
        """Batches of shuffled positions: some passes over the data, or as many as the steps need."""
        work = self.bench.work
        if epochs is not None or steps is not None:
            work = replace(work, epochs=work.epochs if epochs is None else epochs, steps=steps)
        own, shuffle = self._positions(), generator(self.seed, _part("batches", part), self.turn, self.client)
        passes = (self._parts(own[torch.randperm(len(own), generator=shuffle)]) for _ in count())
        return tuple(islice(chain.from_iterable(passes), self._steps(work)))

    def _steps(self, work: Work) -> int:
        return work.epochs * len(self._parts(self._positions())) if work.steps is None else work.steps


def _part(purpose: str, part: int) -> str:
    """The name of the randomness of one part of a round's training."""
    return f"{purpose} {part}" if part else purpose
