"""The worked example of the mission: a layer of 100 units, |w| <= 0.2 removed, sparse form, w + 0.1 (w' - w)."""

import torch

from fedbonsai import wire
from fedbonsai.core.message import Message, group
from fedbonsai.core.state import Memory
from fedbonsai.core.support import Support
from fedbonsai.federated.aggregate import server_step
from fedbonsai.sparsity.masks import above
from fedbonsai.sparsity.scores import score

UNITS, INPUTS = 100, 4


def trained_layer() -> torch.Tensor:
    """Unit j has the weights (j - 50) / 100 * [1, 0.5, -0.25, 0.4]: by hand, unit 90 has 0.4, 0.2, -0.1, 0.16."""
    return torch.arange(-50, 50).unsqueeze(1) / 100 * torch.tensor([1.0, 0.5, -0.25, 0.4])


def test_weights_up_to_and_including_the_threshold_are_removed():
    mask = above(score("magnitude", {"w": trained_layer()}), threshold=0.2)["w"]
    # Column 0: |j - 50| / 100 > 0.2 keeps |j - 50| >= 21: 30 below (0..29) and 29 above (71..99). Equality, 0.2, goes.
    assert mask[:, 0].sum() == 59
    # Column 1: |j - 50| > 40 keeps 0..9 and 91..99. Column 2: > 80 keeps none. Column 3: |j - 50| > 50 keeps none.
    assert [int(column.sum()) for column in mask.T] == [59, 19, 0, 0]
    assert not mask[30, 0]  # w = -0.2 exactly


def test_the_sparse_form_travels_and_moves_the_global_model():
    before, local = torch.full((UNITS, INPUTS), 0.5), trained_layer()
    support = Support.masked(above(score("magnitude", {"w": local}), threshold=0.2)["w"])
    message = Message({"weights": group({"w": local}, {"w": support})})
    data = wire.encode(message)
    assert len(data) < 0.5 * len(wire.encode(Message({"weights": group({"w": local})})))
    arrived = wire.decode(data).dense()["w"]
    assert torch.equal(arrived, torch.where(support.indicator(), local, 0.0))
    moved, _ = server_step({"w": before}, {"w": arrived}, Memory(), lr=0.1)
    # Unit 99, column 0: w' = 0.49: 0.5 + 0.1 (0.49 - 0.5) = 0.499. Unit 50 was removed: 0.5 + 0.1 (0 - 0.5) = 0.45.
    torch.testing.assert_close(moved["w"][99, 0], torch.tensor(0.499))
    torch.testing.assert_close(moved["w"][50, 0], torch.tensor(0.45))
