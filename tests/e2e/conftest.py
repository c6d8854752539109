"""What the tests of the command line share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.command import SMALL, Done, completed


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Runs a command to its end."""
    log = tmp_path_factory.mktemp("command") / "log"
    return lambda *arguments, **machine: completed(log, *arguments, **machine)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Done]) -> Path:
    """A finished run of fedavg; not to be changed."""
    out = tmp_path_factory.mktemp("dense") / "run"
    assert command("run", *SMALL, "--out", str(out)).code == 0
    return out


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Done]) -> Path:
    """A finished run of local-prune; not to be changed."""
    out = tmp_path_factory.mktemp("pruned") / "run"
    assert command("run", *SMALL, "--method", "local-prune", "--out", str(out)).code == 0
    return out
