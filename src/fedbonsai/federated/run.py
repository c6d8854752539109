"""Rounds until the run is over: evaluate, write a checkpoint, tell whoever looks on."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from fedbonsai.core.errors import RoundError
from fedbonsai.core.message import Group, Message, group
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import Setting, State, Tensors
from fedbonsai.core.timing import ROUND, span
from fedbonsai.federated import checkpoint as checkpoints
from fedbonsai.federated.aggregate import Total, average
from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.federated.client import EVALUATE, JUDGE, STATISTICS
from fedbonsai.federated.engine import Engine
from fedbonsai.federated.exchange import Rules
from fedbonsai.federated.ledger import Row
from fedbonsai.federated.method import Method, NestedMethod, Plan, ServerSide, Traits
from fedbonsai.federated.round import run_round
from fedbonsai.federated.submodels import loaded, only_grids
from fedbonsai.learning.bench import Bench, Evaluation
from fedbonsai.learning.machine import available_cores
from fedbonsai.learning.work import NormPolicy
from fedbonsai.sparsity.channels import kept_units

logger = logging.getLogger(__name__)

Observer = Callable[[Row], None]
MAX_STAGES_IN_A_ROW = 10_000
JUDGES = 10_000
"""Clients that judge unless a run says otherwise."""


@dataclass(frozen=True)
class Schedule:
    """What a run does besides its rounds.

    Attributes:
        evaluate_every: Rounds between two evaluations; the last round is always evaluated.
        norm_policy: See `Client`.
        directory: Where checkpoints go; None writes none.
        experiment: Digest of the experiment, written into them.
        judges: Clients whose data judge personal models, and the final model on training data; of a larger population
            a sample, the same for the whole run.
    """

    evaluate_every: int = 1
    norm_policy: NormPolicy = "average"
    directory: Path | None = None
    experiment: str = ""
    judges: int = JUDGES


@dataclass
class Run:
    """A federated run: server side.

    Attributes:
        method: The method.
        setting: What it may know of the run.
        engine: Carries the bytes.
        bench: The server's module, for initial weights and evaluation.
        rules: How rounds are held.
        schedule: Evaluation and checkpoints.
    """

    method: Method
    setting: Setting
    engine: Engine
    bench: Bench
    rules: Rules
    schedule: Schedule = Schedule()

    @property
    def personal(self) -> bool:
        """Whether the models that count are the clients' own."""
        return self.method.traits.personal or self.schedule.norm_policy == "local"

    def start(self) -> Checkpoint:
        """The run as it stands on disk, or at its very beginning."""
        if self.schedule.directory is not None:
            found = checkpoints.load(self.schedule.directory, self.setting, self.schedule.experiment)
            if found is not None:
                self.engine.restore(found.memories)
                return found
        shared = self.bench.layout.slots if self.schedule.norm_policy == "average" else self.bench.layout.parameters
        weights = {slot.name: self.bench.initial[slot.name] for slot in shared}
        return Checkpoint(self.method.init(self.setting, weights))

    def run(self, observer: Observer | None = None, begun: Checkpoint | None = None) -> Checkpoint:
        """Hold rounds until all are done; return the run as it stands then.

        Args:
            observer: Is told the row of every finished round.
            begun: What `start` gave, for who needs it too; otherwise it is asked here.

        Raises:
            RoundError: A round could not be finished; the checkpoint of the one before stands.
            CheckpointError: A checkpoint could not be read or written.
        """
        current = begun or self.start()
        stages = 0
        while current.state.round < self.setting.rounds:
            with span(ROUND, current.state.turn + 1):
                began = time.perf_counter()
                state, row = run_round(self.method, current.state, self.engine, self.rules)
                rows = [row]
                stages = 0 if row["stage"] == "train" else stages + 1
                if stages > MAX_STAGES_IN_A_ROW:
                    raise RoundError(f"{self.method.name} must train, its last {stages} stages did not")
                if row["stage"] == "train" and self._due(state.round):
                    with span("evaluate"):
                        state, rows = self.evaluated(state, row)
                current = Checkpoint(
                    state,
                    self.engine.memories(),
                    (*current.rows, *rows),
                    current.seconds + time.perf_counter() - began,
                )
                if self.schedule.directory is not None:
                    with span("checkpoint"):
                        checkpoints.save(self.schedule.directory, current, self.schedule.experiment)
                for one in rows:
                    if observer is not None:
                        observer(one)
        return current

    def evaluated(self, state: State, row: Row) -> tuple[State, list[Row]]:
        """Judge the state after a round; a stage that this needs is a row of its own."""
        rows = [row]
        if self.schedule.norm_policy == "static" and self.bench.has_batch_norm:
            # Sub-models have no statistics of the whole: it is sent as it is to be judged.
            model = _parts(self.deployed(state), state) if self.method.traits.submodels and not self.personal else None
            state, statistics = run_round(_Statistics(self.method, model), state, self.engine, self.rules)
            rows.insert(0, statistics)
        found = self.evaluate(state)
        return state, [*rows[:-1], {**row, "test_loss": found.loss, "test_metric": found.metric}]

    def evaluate(self, state: State) -> Evaluation:
        """Test loss and metric: of the global model on the test set, or of personal models on their own data."""
        if self.personal:
            return self._ask_clients(state, EVALUATE)
        return self._tested(loaded(self.bench, self.deployed(state), only_grids(state.supports)))

    def _tested(self, bench: Bench) -> Evaluation:
        # The clients are done: the cores that they worked on are free.
        return bench.evaluate(bench.task.test, threads=min(self.engine.capacity, available_cores()))

    def by_width(self, state: State) -> list[dict[str, Any]]:
        """The smaller models that the result holds, one for every width of the run's tiers: size, cost and test."""
        if not isinstance(self.method, NestedMethod) or not self.method.traits.submodels:
            return []
        return [self._nested(state, width) for width in sorted(set(self.setting.tiers.widths), reverse=True)]

    def _nested(self, state: State, width: float) -> dict[str, Any]:
        method: NestedMethod = self.method  # type: ignore[assignment]
        parts = method.submodel(state, width)
        supports = {name: part.support for name, part in parts.items()}
        weights = {name: part.dense() for name, part in parts.items()}
        bench = loaded(self.bench, {**weights, **state.statistics}, supports)
        found, units = self._tested(bench), None
        if all(one.mask is None for one in supports.values()):
            units = {name: len(own) for name, own in kept_units(self.setting.groups, supports).items()}
        return {
            "width": width,
            "units": units,
            "parameters": self.setting.layout.count(supports),
            "flops": bench.cost.forward + bench.cost.backward,
            "test_loss": found.loss,
            "test_metric": found.metric,
        }

    def train_metric(self, state: State) -> Evaluation:
        """The final model on the training data of `judges` (of personal methods: what is shared of it).

        A client whose data the model cannot take was no part of the training, and is no part of this either.
        """
        if self.bench.task.elsewhere:
            return self._ask_clients(state, JUDGE)
        bench = loaded(self.bench, self.deployed(state), only_grids(state.supports))
        found = [_learned(bench, client) for client in self.judges()]
        examples = sum(one.examples for one in found)
        loss = sum(one.loss * one.examples for one in found) / max(examples, 1)
        metric = sum(one.metric * one.examples for one in found) / max(examples, 1)
        return Evaluation(loss, metric, examples)

    def judges(self) -> tuple[int, ...]:
        """The clients whose data judge: all of them, or the run's sample of a large population."""
        clients, wanted = self.setting.clients, self.schedule.judges
        if wanted >= clients:
            return tuple(range(clients))
        drawn = torch.randperm(clients, generator=generator(self.setting.seed, "judges"))[:wanted]
        return tuple(drawn.sort().values.tolist())

    def deployed(self, state: State) -> Tensors:
        """The tensors of the result, with the statistics that its batch norms need."""
        return {**self.method.model(state), **state.statistics}

    def _due(self, round_: int) -> bool:
        return round_ % self.schedule.evaluate_every == 0 or round_ == self.setting.rounds

    def _ask_clients(self, state: State, stage: str) -> Evaluation:
        sums: dict[str, float] = {}
        rules = replace(self.rules, min_clients=1, downlink="fp32" if stage == JUDGE else self.rules.downlink)
        model = _parts(self.deployed(state), state) if stage == JUDGE else None
        run_round(_Evaluation(self.method, self.judges(), sums, model), state, self.engine, rules)
        weight = sums["weight"]
        return Evaluation(sums["loss"] / weight, sums["metric"] / weight, int(weight))


def _learned(bench: Bench, client: int) -> Evaluation:
    """The loaded weights on what one client trained on."""
    try:
        return bench.evaluate(bench.task.pool, bench.task.splits[client].train)
    except Exception as error:  # whatever one client's data raise must not cost the result of all rounds
        logger.debug("client %d cannot be judged", client, exc_info=True)
        logger.warning("training error: client %d is left out: %s: %s", client, type(error).__name__, error)
        return Evaluation(0.0, 0.0, 0)


def _parts(model: Tensors, state: State) -> Group:
    """A model on the state's supports, where it has nothing beside them."""
    supports = {name: one for name, one in state.supports.items() if torch.equal(one.apply(model[name]), model[name])}
    return group(model, supports)


@dataclass(frozen=True)
class _Statistics:
    """Wraps a method: one stage in which the cohort measures the batch-norm statistics of the global model."""

    traits: ClassVar[Traits] = Traits()
    method: ServerSide
    model: Group | None = None

    def plan(self, _: State) -> Plan:
        return Plan(STATISTICS)

    def distribute(self, state: State, client: int) -> Message:
        return self.method.distribute(state, client) if self.model is None else Message({"weights": self.model})

    def finalize(self, state: State, total: Total) -> State:
        sums = {name: one.numerator for name, one in total.groups["weights"].items()}
        return replace(state, statistics=average(total, sums))


@dataclass(frozen=True)
class _Evaluation:
    """Wraps a method: one stage in which clients judge their own models, or the one that is given, on their own data.

    Nothing of it is charged.
    """

    traits: ClassVar[Traits] = Traits()
    method: ServerSide
    judges: tuple[int, ...]
    sums: dict[str, float]
    model: Group | None = None

    def plan(self, _: State) -> Plan:
        return Plan(EVALUATE if self.model is None else JUDGE, cohort=self.judges)

    def distribute(self, state: State, client: int) -> Message:
        return self.method.distribute(state, client) if self.model is None else Message({"weights": self.model})

    def finalize(self, state: State, total: Total) -> State:
        self.sums.update(total.numbers, weight=total.weight)
        return state
