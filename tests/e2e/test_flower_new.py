"""What `fedbonsai flower new` writes runs as its README says, and both ways give the same bits."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.command import Done, Machine
from tests.e2e.deployment import Block, Site, blocks, site, wait_for

PRELUDE = """
export PATH=/opt/fedbonsai/bin:$PATH
set -a; . ~/fedbonsai/examples/deploy/flower.env; set +a
"""


def bits(out: Path) -> tuple[bytes, list]:
    rows = json.loads((out / "result.json").read_text())["rounds"]
    return (out / "model.safetensors").read_bytes(), [(row["bytes_down"], row["bytes_up"]) for row in rows]


def follow(made: Site, block: Block) -> None:
    made.follow(block)
    if "flower-superlink" in block.text:
        wait_for(lambda: made.listens("server", "127.0.0.1:8000"))


@pytest.mark.slow
def test_the_readme_of_a_new_app_is_true() -> None:
    with site("new") as made:
        made.follow(Block("", "server", running=False, text="python3 -m venv /opt/fedbonsai"))
        made.prelude = PRELUDE
        made.follow(Block("", "server", running=False, text="fedbonsai flower new ~/app --name mine"))
        app = made.home("server") / "app"
        experiment = app / "experiment.toml"
        experiment.write_text(experiment.read_text().replace("rounds = 10", "rounds = 2"))
        made.prelude = PRELUDE + "cd ~/app\n"
        page = blocks((app / "README.md").read_text())
        assert len(page) == 9
        for block in page:
            follow(made, block)
        assert bits(app / "runs/devices") == bits(app / "runs/simulated")


def test_a_new_app_and_its_keys_are_told_of(command: Callable[..., Done], tmp_path: Path) -> None:
    made = command("flower", "new", str(tmp_path / "app"))
    assert (made.code, made.err) == (0, "")
    assert "task.py" in made.out
    keys = command("flower", "certs", str(tmp_path / "keys"), "--host", "192.0.2.10", "--nodes", "3")
    assert (keys.code, keys.err) == (0, "")
    assert "--superlink 192.0.2.10:PORT" in keys.out
    assert "--insecure" not in keys.out
    for path in re.findall(rf"{tmp_path}/keys/[\w.-]+", keys.out):
        assert Path(path).exists()
    assert (tmp_path / "keys/node-2").exists()


@pytest.mark.parametrize("what", ["new", "certs"])
def test_what_is_there_is_kept(command: Callable[..., Done], tmp_path: Path, what: str) -> None:
    (tmp_path / "mine").write_text("x")
    refused = command("flower", what, str(tmp_path))
    assert refused.code == 1
    [line] = refused.said
    assert "must be empty" in line
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def test_keys_need_a_package_that_is_named(command: Callable[..., Done], tmp_path: Path) -> None:
    refused = command("flower", "certs", str(tmp_path / "keys"), machine=Machine(missing="cryptography"))
    assert refused.code == 1
    assert "pip install 'fedbonsai[flower]'" in refused.err
