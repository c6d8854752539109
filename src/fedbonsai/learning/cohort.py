"""Local training of several clients at once: their steps side by side, each client's bits as if it were alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedbonsai.learning.bench import Bench
from fedbonsai.learning.objective import Live, Objective, nothing
from fedbonsai.learning.work import Optimizer, make_optimizer

ROW = 64
"""Floats that a client's row is a multiple of: operations on whole vectors then leave no remainder, which some of them
compute in another way."""


@dataclass(frozen=True, eq=False)
class Training:
    """What one client is to train.

    Attributes:
        bench: Its model and data.
        begin: Its parameters end to end.
        mask: One float per parameter, 1 = present; None when all are.
        batches: Positions of the examples of every step.
        lr: The learning rate.
        objective: What its method adds; one of `together`.
    """

    bench: Bench
    begin: Tensor
    mask: Tensor | None
    batches: tuple[Tensor, ...]
    lr: float
    objective: Objective = field(default_factory=Objective)


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave.

    Attributes:
        flat: The parameters end to end.
        loss: Sum of the losses of all examples seen.
        flops: FLOPs that are still to be metered, those of rows that only fill a batch up included.
    """

    flat: Tensor
    loss: float
    flops: int = 0


Trainer = Callable[[Training], Trained]
"""Does one client's training."""


def alone(one: Training) -> Trained:
    """Train one client by itself."""
    return train([one])[0]


def together(objective: Objective) -> bool:
    """Whether clients with this objective can be trained side by side: it must look at gradients or weights alone."""
    own = (objective.loss, objective.penalty, objective.effective, objective.learning_rate)
    return all(one is None for one in own) and objective.around is nothing


def train(trainings: Sequence[Training]) -> list[Trained]:
    """Train clients of any benches, those of one side by side.

    Each client's result is the same to the bit whoever else is trained with it.
    """
    kinds: dict[tuple[int, float], list[int]] = {}
    for place, one in enumerate(trainings):
        kinds.setdefault((id(one.bench), one.lr), []).append(place)
    found: dict[int, Trained] = {}
    for places in kinds.values():
        places.sort(key=lambda place: -len(trainings[place].batches))
        found.update(zip(places, _Rows.of([trainings[place] for place in places]).trained(), strict=True))
    return [found[place] for place in range(len(trainings))]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Clients of one bench and learning rate as rows of matrices, those with the most steps first.

    Attributes:
        own: What each is to train.
        flat: Their parameters; one more row where there is one client, as gradients are never taken of one alone.
        gradient: Their gradients.
        masks: Their masks; None when nothing is absent.
        positions: Of the examples, shape ``(rows, steps, batch)``, filled up with any.
        shares: What each counts for in its step: one over the examples of the step, 0 where it only fills up.
    """

    own: Sequence[Training]
    flat: Tensor
    gradient: Tensor
    masks: Tensor | None
    positions: Tensor
    shares: Tensor

    @staticmethod
    def of(own: Sequence[Training]) -> "_Rows":
        """Lay clients out."""
        bench, rows = own[0].bench, max(2, len(own))
        parameters, steps, batch = bench.flat.numel(), len(own[0].batches), bench.work.batch_size
        flat, gradient = torch.zeros(2, rows, -(-parameters // ROW) * ROW, device=bench.device)
        masks = None if all(one.mask is None for one in own) else torch.ones_like(flat)
        positions, shares = torch.zeros(rows, steps, batch, dtype=torch.int64), torch.zeros(rows, steps, batch)
        for row, one in enumerate(own):
            flat[row, :parameters] = one.begin
            if masks is not None and one.mask is not None:
                masks[row, :parameters] = one.mask
            for step, chosen in enumerate(one.batches):
                positions[row, step, : len(chosen)] = chosen
                shares[row, step, : len(chosen)] = 1 / len(chosen)
        return _Rows(own, flat, gradient, masks, positions.to(bench.device), shares.to(bench.device))

    def trained(self) -> list[Trained]:
        """Make all steps of all clients."""
        work, parameters = self.own[0].bench.work, self.own[0].bench.flat.numel()
        optimizer = make_optimizer(work, self.flat)
        lives = [self._live(row) if one.objective.acts else None for row, one in enumerate(self.own)]
        losses = torch.zeros(len(self.flat), device=self.flat.device)
        for step in range(self.shares.shape[1]):
            active = sum(len(one.batches) > step for one in self.own)
            losses[:active] += self._backward(step, max(active, 2))[:active] * (self.shares[:active, step] > 0).sum(1)
            self._move(lives[:active], optimizer)
        cost = self.own[0].bench.cost
        flops = (cost.forward + cost.backward) * self.shares.shape[2]
        return [
            Trained(row[:parameters].clone(), loss, flops * len(one.batches))
            for one, row, loss in zip(self.own, self.flat, losses.tolist(), strict=False)
        ]

    def _backward(self, step: int, rows: int) -> Tensor:
        """Take the gradients of the first rows in one step; those that are done have no examples in it."""
        bench, shares = self.own[0].bench, self.shares[:rows, step]
        inputs, targets = bench.task.pool.batch(self.positions[:rows, step].flatten())
        inputs, targets = (one.reshape(*shares.shape, *one.shape[1:]) for one in (inputs, targets))
        flat, gradient = (bench.views(one[:rows, : bench.flat.numel()]) for one in (self.flat, self.gradient))
        if bench.batched is None:
            raise RuntimeError("clients are trained side by side by a kernel that can, got loop")
        return bench.batched.gradients(flat, inputs, targets, shares, gradient)

    def _move(self, lives: Sequence[Live | None], optimizer: Optimizer) -> None:
        """Make one step of the clients that are not done, as `Bench.step` does of one."""
        rows, work, lr = len(lives), self.own[0].bench.work, self.own[0].lr
        flat, gradient = self.flat[:rows], self.gradient[:rows]
        for one, live in zip(self.own, lives, strict=False):
            if live is not None and one.objective.gradient is not None:
                one.objective.gradient(live)
        if self.masks is not None:
            gradient.mul_(self.masks[:rows])
        if work.clip is not None:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((work.clip / (norms + 1e-6)).clamp(max=1.0))
        optimizer.step(flat, gradient, lr)
        for one, live in zip(self.own, lives, strict=False):
            if live is not None and one.objective.after_step is not None:
                one.objective.after_step(live)
                if one.mask is not None:
                    live.flat.mul_(one.mask)

    def _live(self, row: int) -> Live:
        """One client's row as its objective sees it."""
        bench, parameters = self.own[row].bench, self.own[row].begin.numel()
        flat, gradient, anchor = self.flat[row, :parameters], self.gradient[row, :parameters], self.own[row].begin
        return Live(bench.views(flat), bench.views(gradient), bench.views(anchor), flat, gradient, anchor)
