"""What the tests of the command line share."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedbonsai.cli.app import start
from tests.e2e.command import SMALL


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        code: Its exit code.
        out: What it wrote on standard output.
        err: What it wrote on standard error, besides its log.
        log: The messages of its log.
    """

    code: int
    out: str
    err: str
    log: list[str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., Done]:
    """The command line, called in this process."""

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            code = start(arguments)
        out, err = capsys.readouterr()
        return Done(code, out, err, [record.getMessage() for record in caplog.records])

    return call


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of fedavg; not to be changed."""
    return _finished(tmp_path_factory.mktemp("dense") / "run", "fedavg")


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of local-prune; not to be changed."""
    return _finished(tmp_path_factory.mktemp("pruned") / "run", "local-prune")


def _finished(out: Path, method: str) -> Path:
    code = start(["run", *SMALL, "--method", method, "--out", str(out)])
    if code != 0:
        raise RuntimeError(f"a run of {method} must finish, it ended with {code}")
    return out
