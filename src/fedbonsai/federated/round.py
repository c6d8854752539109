"""One round, as the picture in docs/architecture.md: distribute, work, add up, finalize."""

from dataclasses import replace

from fedbonsai.core.errors import FedbonsaiError, RoundError
from fedbonsai.core.message import Group
from fedbonsai.core.state import State
from fedbonsai.core.timing import span
from fedbonsai.federated.aggregate import Total
from fedbonsai.federated.engine import Engine, collect
from fedbonsai.federated.estimate import estimated
from fedbonsai.federated.exchange import Exchange, Rules
from fedbonsai.federated.ledger import Ledger, Row
from fedbonsai.federated.method import ServerSide


def run_round(method: ServerSide, state: State, engine: Engine, rules: Rules) -> tuple[State, Row]:
    """Hold one round of whatever stage the method plans.

    Clients that fail, come late or send what cannot be used are dropped and named; the round goes on with the rest.

    Returns:
        The state after it, and its row of the ledger.

    Raises:
        RoundError: Fewer than ``rules.min_clients`` updates could be used, or than ``rules.robust`` needs, or none of
            them has what the method needs; ``state`` still stands.
    """
    plan = method.plan(state)
    ledger = Ledger(state, plan.stage)
    exchange = Exchange(method, state, plan, rules, ledger)
    robust, kept = rules.robust, list[Group]()
    estimate = robust is not None and robust.keeps
    total = Total(plan.stage, sums_only=method.traits.sums_only, estimated=estimate)
    tasks = exchange.tasks(engine.capacity)
    for answer in collect(engine, tasks, rules.window_bytes, exchange.again, exchange.cohort):
        try:
            with span("decode", answer.client):
                update = exchange.update(answer)
            with span("aggregate", answer.client):
                total.add(update)
            if estimate:
                kept.append(update.groups.get("weights", {}))
            total.seconds[answer.client] = answer.seconds
            ledger.accept(answer)
        except FedbonsaiError as error:
            ledger.drop(answer, str(error))
    ledger.require(rules.min_clients)
    with span("aggregate"):
        if robust is not None:
            total = estimated(total, kept, robust)
        after = _finalized(method, state, total)
    trained = plan.stage == "train"
    after = replace(after, turn=state.turn + 1, round=state.round + trained, held=exchange.held())
    after = replace(after, answered=exchange.answered())
    engine.settle(ledger.accepted)
    return after, ledger.row(after, total)


def _finalized(method: ServerSide, state: State, total: Total) -> State:
    """The state after a round, unless clients left out what the method cannot do without."""
    try:
        return method.finalize(state, total)
    except KeyError as error:
        raise RoundError(
            f"round {state.round + 1} ({total.stage}): the method needs {error} of at least one client, "
            f"got it of none of {total.clients}; nothing of it was applied"
        ) from error
