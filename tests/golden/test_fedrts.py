"""A round of FedRTS, worked by hand: two clients, one layer of three weights."""

import dataclasses

import pytest
import torch
from golden.scripted import SETTING, START, next_round, one_round, scripted
from torch import tensor
from torch.distributions import Beta

from fedbonsai import wire
from fedbonsai.core.errors import ConfigError
from fedbonsai.core.message import Message, Part
from fedbonsai.core.seeds import generator, seeded
from fedbonsai.core.support import Support
from fedbonsai.methods.fedrts import FedRTS

METHOD = FedRTS(density=2 / 3, alpha=0.5, gamma=0.5, step=10.0)


def clients():
    """Two of three weights of 1 are present, w0 and w1; k = int(0.5 * 2) = 1, kappa = 1."""
    return [scripted((2.0, 8.0, 7.0), 1, gradient=(9.0, 9.0, 3.0)), scripted((6.0, 3.0, 7.0), 3, (9.0, 9.0, -3.0))]


def posterior(state) -> list[list[float]]:
    return [state.memory.tensors[f"{one}/w"][0].tolist() for one in ("alpha", "beta")]


def test_clients_name_their_weakest_weights_and_their_largest_absent_gradients():
    _, updates = one_round(METHOD, clients())
    named = [
        {key: parts["w"].support.positions.tolist() for key, parts in update.groups.items() if key != "weights"}
        for update in updates
    ]
    assert named == [{"weak": [0], "grow": [2]}, {"weak": [1], "grow": [2]}]
    assert all(update.groups[key]["w"].values.tolist() == [1.0] for update in updates for key in ("weak", "grow"))


def test_the_posterior_takes_the_model_and_the_votes():
    state, _ = one_round(METHOD, clients())
    # The mean: w0 = (2 + 18) / 4 = 5, w1 = (8 + 9) / 4 = 4.25, so w0 is the top one of the model; so it is for client
    # two (3 of 4 examples), while w1 is for client one (1 of 4).
    # X0 = 0.5 * 1 + 0.5 * 3/4 = 0.875, X1 = 0.5 * 0 + 0.5 * 1/4 = 0.125; w2 was named by all:
    # X2 = 0.25 + 0.5 * 1 = 0.75.
    # alpha = 1 + 10 X = 9.75, 2.25, 8.5; beta = 1 + 10 (1 - X) = 2.25, 9.75, 3.5.
    assert posterior(state) == [[9.75, 2.25, 8.5], [2.25, 9.75, 3.5]]


def test_votes_for_absent_weights_are_shares_of_the_examples():
    both = [scripted((2.0, 7.0, 7.0), 1, gradient=(9.0, 6.0, 5.0)), scripted((6.0, 7.0, 7.0), 3, (9.0, 1.0, -4.0))]
    state, _ = one_round(dataclasses.replace(METHOD, density=1 / 3, alpha=1.0), both)
    # w0 alone is present: k = 1, kappa = 0, X0 = 0. One names w1, X1 = 0.25 + 0.5 * 1/4 = 0.375; two names w2,
    # X2 = 0.25 + 0.5 * 3/4 = 0.625.
    assert posterior(state) == [[1.0, 4.75, 7.25], [11.0, 7.25, 4.75]]


def test_the_mask_is_the_top_of_a_sample_and_keeps_trained_weights():
    masks = []
    for seed in range(40):
        state, _ = one_round(dataclasses.replace(METHOD, step=1.0), clients(), dataclasses.replace(SETTING, seed=seed))
        with seeded(seed, "posterior", 0):
            drawn = Beta(tensor([1.875, 1.125, 1.75]).double(), tensor([1.125, 1.875, 1.25]).double()).sample()
        mask = state.supports["w"].indicator()[0].tolist()
        assert mask == [place != int(drawn.argmin()) for place in range(3)]
        torch.testing.assert_close(state.weights["w"], tensor([[5.0, 4.25, 0.0]]) * tensor(mask))
        masks.append(mask)
    # Means of the posteriors are 0.63, 0.38 and 0.58: w1 goes most often, but it is a sample and no ranking.
    assert 40 / 3 < masks.count([True, False, True]) < 40


def test_between_two_masks_only_present_weights_are_played():
    setting = dataclasses.replace(SETTING, rounds=4)
    state = METHOD.init(setting, START)
    states = []
    for _ in range(4):
        state, updates = next_round(METHOD, state, clients())
        states.append(state)
    # The first half of 4 rounds moves masks, every 10th: that is round 2. Round 1 plays w0 and w1 as above.
    assert posterior(states[0]) == [[9.75, 2.25, 1.0], [2.25, 9.75, 1.0]]
    assert states[0].supports["w"].indicator().tolist() == [[True, True, False]]
    # In round 2, a = 0.5 / 2 (1 + cos(pi / 2)) = 0.25 and k = int(0.25 * 2) = 0: all present weights are top, X = 1; w2
    # was named by nobody, X2 = 0.25.
    assert posterior(states[1]) == [[19.75, 12.25, 3.5], [2.25, 9.75, 8.5]]
    # Then nothing is voted on any more.
    assert posterior(states[3]) == posterior(states[1])
    assert [set(update.groups) for update in updates] == [{"weights"}, {"weights"}]


def test_a_vote_costs_little_more_than_its_place():
    mask = torch.rand(1, 100_000, generator=generator(0, "test")) < 0.1
    weak = Support.masked(mask & (torch.rand(mask.shape, generator=generator(1, "test")) < 0.2))
    held = Support.masked(mask)
    vote = Message({"weak": {"w": Part(torch.ones(weak.count), weak)}})
    # 10^4 present weights, a fifth of them weak: H(0.2) = 0.722 bits each are 902 bytes, and a frame.
    assert len(wire.encode(vote, held={held.digest: held})) < 1200


def test_a_density_that_empties_a_layer_is_refused():
    with pytest.raises(ConfigError, match=r"at least 0.3333.*got 0.1"):
        FedRTS(density=0.1).init(SETTING, START)
