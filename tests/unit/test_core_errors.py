"""One error for unknown names, and one root for all errors."""

import pytest

from fedbonsai.core import errors
from fedbonsai.core.errors import ConfigError, FedbonsaiError, lookup


def test_a_known_name_is_itself():
    assert lookup("method", "b", ("a", "b")) == "b"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fedvag", "unknown method 'fedvag'; did you mean 'fedavg'? known: fedavg, fedprox"),
        ("zzz", "unknown method 'zzz'; known: fedavg, fedprox"),
        ("", "unknown method ''; known: fedavg, fedprox"),
    ],
)
def test_an_unknown_name_lists_the_known_ones_in_order(name, said):
    with pytest.raises(ConfigError) as caught:
        lookup("method", name, ["fedprox", "fedavg"])
    assert str(caught.value) == said


def test_every_error_can_be_caught_at_once():
    public = [one for one in vars(errors).values() if isinstance(one, type)]
    assert len(public) > 5
    assert all(issubclass(one, FedbonsaiError) for one in public)
    assert issubclass(ConfigError, ValueError)
