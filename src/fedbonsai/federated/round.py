"""One round, as the picture in docs/architecture.md: distribute, work, add up, finalize."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from fedbonsai import wire
from fedbonsai.core.errors import ClientError, FedbonsaiError
from fedbonsai.core.message import Message
from fedbonsai.core.seeds import generator
from fedbonsai.core.state import State
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.client import FAILED
from fedbonsai.federated.engine import Answer, Engine, collect
from fedbonsai.federated.ledger import Ledger, Row
from fedbonsai.federated.method import Plan, ServerSide


@dataclass(frozen=True)
class Rules:
    """How rounds are held.

    Attributes:
        cohort: Clients that a ``sampled`` plan draws.
        min_clients: Fewer accepted updates than this end the run.
        window_bytes: Early answers that may wait, in encoded bytes.
        max_examples: The largest number of examples that a client may claim.
    """

    cohort: int
    min_clients: int = 1
    window_bytes: int = 1 << 28
    max_examples: float = 1e9


def run_round(method: ServerSide, state: State, engine: Engine, rules: Rules) -> tuple[State, Row]:
    """Hold one round of whatever stage the method plans.

    Clients that fail, come late or send what cannot be used are dropped and named; the round goes on with the rest.

    Returns:
        The state after it, and its row of the ledger.

    Raises:
        RoundError: Fewer than ``rules.min_clients`` updates could be used; ``state`` still stands.
    """
    plan = method.plan(state)
    ledger = Ledger(state, plan.stage)
    total = Total(plan.stage)
    tasks = _tasks(method, state, plan, rules, ledger)
    for answer in collect(engine, tasks, rules.window_bytes):
        try:
            total.add(_accept(answer, state, plan, rules, ledger))
        except FedbonsaiError as error:
            ledger.drop(answer.client, str(error), answer.data or b"")
    ledger.require(rules.min_clients)
    after = method.finalize(state, total)
    after = replace(after, turn=state.turn + 1, round=state.round + (plan.stage == "train"))
    engine.settle(ledger.accepted)
    return after, ledger.row(after, total)


def draw_cohort(plan: Plan, state: State, rules: Rules) -> list[int]:
    """Draw the clients of a turn without replacement, in increasing order; the seed and the turn decide."""
    population = state.setting.clients
    wanted = {"sampled": rules.cohort, "all": population}.get(str(plan.cohort), plan.cohort)
    shuffled = torch.randperm(population, generator=generator(state.setting.seed, "cohort", state.turn))
    return sorted(shuffled[: min(int(wanted), population)].tolist())


def _tasks(method: ServerSide, state: State, plan: Plan, rules: Rules, ledger: Ledger) -> Iterator[tuple[int, bytes]]:
    """Encode one task after the other, when the engine has room for it."""
    progress = state.round / state.setting.rounds
    for client in draw_cohort(plan, state, rules):
        task = method.distribute(state, client).with_numbers(progress=progress)
        task = replace(task, client=client, round=state.turn, stage=plan.stage)
        yield client, ledger.down(client, wire.encode(task))


def _accept(answer: Answer, state: State, plan: Plan, rules: Rules, ledger: Ledger) -> Message:
    """Decode an answer and check all that can be checked of it.

    Raises:
        WireError: It is no message, or one for another model.
        ClientError: It is one that cannot be used.
    """
    if answer.data is None:
        raise ClientError(answer.error)
    ledger.up(answer.data)
    limits = wire.Limits(max_parameters=64 * max(1, sum(slot.numel for slot in state.setting.layout.slots)))
    update = wire.decode(answer.data, limits=limits)
    ledger.flops += int(min(max(update.numbers.get("flops", 0.0), 0.0), 1e18))
    if update.stage == FAILED:
        raise ClientError(update.note)
    expected = (plan.stage, state.turn, answer.client)
    if (update.stage, update.round, update.client) != expected:
        raise ClientError(f"an answer must be for {expected}, got {(update.stage, update.round, update.client)}")
    if not 0 < update.weight <= rules.max_examples:
        raise ClientError(f"an update must count for 1 to {rules.max_examples:g} examples, got {update.weight}")
    _check_contents(update, state)
    ledger.accept(answer.client, answer.data)
    return update


def _check_contents(update: Message, state: State) -> None:
    """Refuse numbers that are not finite, and weights of another model than the server's."""
    for name, number in update.numbers.items():
        if not math.isfinite(number):
            raise ClientError(f"{name}: numbers must be finite, got {number}")
    for name, part in update.groups.get("weights", {}).items():
        known = state.weights[name].shape if name in state.weights else state.setting.layout.shapes.get(name)
        if part.support.shape != known:
            raise ClientError(f"weights/{name}: the model here has shape {known}, got {part.support.shape}")
    for group, parts in update.groups.items():
        for name, part in parts.items():
            if not bool(part.values.isfinite().all()):
                raise ClientError(f"{group}/{name}: values must be finite, got NaN or infinity")
