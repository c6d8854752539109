"""How clients that pruned differently agree on one support: each votes for what it kept."""

import logging
from collections.abc import Mapping, Sequence

from fedbonsai.core.state import State
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import Total
from fedbonsai.sparsity.selection import Selection

logger = logging.getLogger(__name__)


def ballot(supports: Mapping[str, Support], floored: Sequence[str], selection: Selection) -> dict[str, float]:
    """The numbers of an update that `voted` needs: how much a client kept, and which floors it ran into."""
    return {"kept": float(selection.kept(supports))} | {f"floor/{name}": 1.0 for name in floored}


def voted(state: State, total: Total, selection: Selection) -> State:
    """Cut a state to what most examples voted for, keeping as many weights as the clients did on average.

    A client votes for the weights that it sent, with its number of examples; the larger weight wins a tie. Says in
    the log when a run begins to be pruned, and which layers only their floor has kept from being emptied.

    Args:
        state: The state after the server's step.
        total: The round's sums; every update carried a `ballot`.
        selection: Connections or neurons, and their floors.
    """
    names = state.setting.layout.prunable
    largest = max(float(state.weights[name].abs().max()) for name in names) or 1.0
    votes = {name: total.groups["weights"][name].held().double() for name in names}
    # Votes are whole examples, so half of one never outweighs a vote.
    scores = {name: vote + 0.5 * state.weights[name].abs() / largest for name, vote in votes.items()}
    mean = round(total.numbers.get("kept", 0.0) / total.clients)  # a number from outside: it may be anything
    supports, _ = selection.choose(scores, {}, min(max(mean, 0), selection.total))
    after = state.moved(state.weights, supports)
    if state.density == 1.0 > after.density:
        logger.info("round %d: pruning starts, density 1 -> %.4g", state.round + 1, after.density)
    for name in names:
        if f"floor/{name}" in total.numbers:
            clients, kept = int(total.numbers[f"floor/{name}"]), getattr(supports.get(name), "count", "all")
            logger.warning("%s: its floor held on %d clients, %s of its weights are kept", name, clients, kept)
    return after
