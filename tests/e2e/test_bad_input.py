"""Directories, files and disks that are not as they should be: one clear line, and nothing is lost."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedbonsai.cli.app import start
from fedbonsai.core.errors import CheckpointError
from fedbonsai.core.layout import Layout
from fedbonsai.core.state import Setting
from fedbonsai.federated import checkpoint as checkpoints
from tests.e2e.command import SMALL, Machine, bits, contents, result

STATE = Path("checkpoint") / "state.safetensors"


@pytest.fixture
def refused(command) -> Callable[..., str]:
    """Runs a command that must fail, and returns the one line that says why."""

    def call(*arguments: str) -> str:
        done = command(*arguments)
        assert done.code == 1
        assert done.err.count("\n") == 1
        assert "Traceback" not in done.err
        assert done.out == ""
        return done.err.rstrip().removeprefix("error: ")

    return call


@pytest.fixture
def unfinished(tmp_path, dense) -> Path:
    """A run of fedavg that has its last checkpoint and no result yet."""
    out = Path(shutil.copytree(dense, tmp_path / "unfinished"))
    for name in ("result.json", "model.safetensors", "report.html"):
        (out / name).unlink()
    shutil.rmtree(out / "tensorboard")
    return out


@pytest.mark.parametrize("command_name", ["run", "compare"])
def test_a_directory_with_other_files_is_left_alone(refused, tmp_path, command_name):
    out = tmp_path / "thesis"
    (out / "chapters").mkdir(parents=True)
    (out / "report.html").write_text("mine")
    (out / "chapters" / "one.txt").write_text("mine")
    before = contents(out)
    said = refused(command_name, *SMALL, "--out", str(out))
    assert said.startswith(f"{out} must be empty or hold ")
    assert "choose another --out" in said
    assert contents(out) == before


def test_a_directory_with_another_run_is_left_alone(refused, dense):
    before = contents(dense)
    said = refused("run", *SMALL, "--seed", "1", "--out", str(dense))
    assert said.startswith(f"{dense} holds another run ({result(dense)['name']}), not digits-fedavg-")
    assert "must be empty or hold a comparison, it holds checkpoint" in refused("compare", *SMALL, "--out", str(dense))
    assert contents(dense) == before


def test_a_comparison_with_another_run_under_one_of_its_names_is_left_alone(refused, tmp_path, dense):
    shutil.copytree(dense, tmp_path / "made" / "local-prune")
    before = contents(tmp_path)
    said = refused("compare", *SMALL, "--out", str(tmp_path / "made"))
    assert "holds another run (digits-fedavg-" in said
    assert contents(tmp_path) == before


def test_a_comparison_takes_finished_runs_of_its_own_as_they_are(command, tmp_path, dense):
    shutil.copytree(dense, tmp_path / "made" / "fedavg")
    done = command("compare", *SMALL, "--out", str(tmp_path / "made"))
    assert done.code == 0
    assert "fedavg: round" not in done.err
    assert bits(tmp_path / "made" / "fedavg") == bits(dense)


@pytest.mark.parametrize("text", ["speed = 3", "lr = ", "rounds = -1", "dataset = 3", "\x00"])
def test_an_experiment_file_that_makes_no_sense_is_left_alone_and_named(refused, tmp_path, text):
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    assert str(file) in refused("run", *SMALL, "--out", str(tmp_path))
    refused("resume", str(tmp_path))
    assert contents(tmp_path) == {"experiment.toml": text.encode()}


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("command_name", ["run", "compare"])
def test_an_output_that_cannot_be_a_directory_is_one_line(refused, tmp_path, command_name, place):
    (tmp_path / "file").write_text("mine")
    assert "must be a directory that can be written" in refused(command_name, *SMALL, "--out", str(tmp_path / place))
    assert contents(tmp_path) == {"file": b"mine"}


def flipped(data: bytes, place: float) -> bytes:
    position = int(place * (len(data) - 1))
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "first byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but the last byte": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "noise": lambda data: bytes(range(256)) * 40,
    "a huge table": lambda data: b"\xff" * 8 + data[8:],
    **{f"a bit at {place:.0%}": lambda data, place=place: flipped(data, place) for place in (0, 0.01, 0.1, 0.5, 1)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_kept(refused, unfinished, damage):
    state = unfinished / STATE
    state.write_bytes(DAMAGES[damage](state.read_bytes()))
    before = contents(unfinished)
    for words in (("resume", str(unfinished)), ("run", *SMALL, "--out", str(unfinished))):
        assert refused(*words).startswith(f"{state} must be a whole checkpoint, it")
    assert contents(unfinished) == before


def test_every_flipped_bit_of_a_checkpoint_is_noticed(unfinished):
    """A sample of bits all over the file, without the command line around it."""
    state, good = unfinished / STATE, (unfinished / STATE).read_bytes()
    setting = Setting(rounds=2, clients=3, seed=0, layout=Layout(()))
    for place in range(150):
        state.write_bytes(flipped(good, place / 149))
        with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
            checkpoints.load(unfinished / "checkpoint", setting, "")


def test_a_checkpoint_of_another_experiment_is_named_and_kept(refused, unfinished, pruned):
    shutil.copy(pruned / STATE, unfinished / STATE)
    before = contents(unfinished)
    said = refused("resume", str(unfinished))
    digest = result(pruned)["name"].rpartition("-")[2]
    assert said.startswith(f"{unfinished / STATE} belongs to experiment {digest}, not to ")
    assert "choose another directory" in said
    assert contents(unfinished) == before


@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more"])
def test_a_data_file_that_is_missing_or_no_parquet_is_named(refused, tmp_path, content):
    pytest.importorskip("pyarrow", reason="needs the [data] extra")
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "train.parquet").write_bytes(content)
    words = ("run", "mnist", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "made"))
    assert str(folder / "train.parquet") in refused(*words)
    assert not (tmp_path / "made").exists()


def test_a_truncated_data_file_is_named(refused, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    table = arrow.table({"label": list(range(10)) * 500, "image": [{"bytes": os.urandom(40)} for _ in range(5000)]})
    parquet.write_table(table, folder / "train.parquet")
    whole = (folder / "train.parquet").read_bytes()
    words = ("run", "mnist", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "made"))
    for data in (whole[: len(whole) // 2], whole[:1000] + bytes(1000) + whole[2000:], whole):
        (folder / "train.parquet").write_bytes(data)
        assert str(folder / "train.parquet") in refused(*words)
    assert not (tmp_path / "made").exists()


def test_a_data_directory_that_is_missing_says_how_to_name_one(refused, tmp_path):
    said = refused("run", "mnist", "--data-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "made"))
    assert f"{tmp_path / 'nowhere' / 'mnist'} is not a folder" in said
    assert "--data-dir or FEDBONSAI_DATA" in said
    assert not (tmp_path / "made").exists()


def test_a_disk_that_is_full_from_the_start_is_one_line(command, tmp_path):
    out = tmp_path / "made"
    done = command("run", *SMALL, "--out", str(out), machine=Machine(file_size=2000))
    assert done.code == 1
    [said] = done.said
    assert said.startswith(f"error: the checkpoint of round 1 cannot be written to {out / 'checkpoint'}: ")
    assert said.endswith("; there is none yet")
    assert set(contents(out)) == {"experiment.toml", "events.jsonl"}
    assert command("resume", str(out)).code == 0


def test_a_disk_that_fills_up_keeps_the_checkpoint_of_the_round_before(command, tmp_path, dense):
    out = tmp_path / "made"
    # The ledger grows: with this limit there is room for the checkpoint of the first round and not for the second.
    limit = (dense / STATE).stat().st_size - 200
    done = command("run", *SMALL, "--out", str(out), machine=Machine(file_size=limit))
    assert done.code == 1
    [said] = done.said
    assert said.startswith(f"error: the checkpoint of round 2 cannot be written to {out / 'checkpoint'}: ")
    assert said.endswith("; the checkpoint of the round before is whole")
    assert set(contents(out)) == {"experiment.toml", str(STATE), "events.jsonl"}
    resumed = command("resume", str(out))
    assert (resumed.code, "round 1 | " in resumed.err) == (0, False)
    assert bits(out) == bits(dense)


def test_no_space_left_on_device_is_said_and_can_be_mended(command, tmp_path, monkeypatch, capsys, dense):
    out, saved, save_file = tmp_path / "made", [], checkpoints.save_file

    def save_once(*arguments: object) -> None:
        if saved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(arguments)
        save_file(*arguments)

    monkeypatch.setattr(checkpoints, "save_file", save_once)
    assert start(["run", *SMALL, "--out", str(out)]) == 1
    first, said = capsys.readouterr().err.splitlines()
    assert first.startswith("digits fedavg: round 1 | ")
    assert said.startswith(f"error: the checkpoint of round 2 cannot be written to {out / 'checkpoint'}: ")
    assert said.endswith("No space left on device; the checkpoint of the round before is whole")
    resumed = command("resume", str(out))
    assert (resumed.code, "round 1 | " in resumed.err) == (0, False)
    assert bits(out) == bits(dense)


def test_a_disk_that_is_full_at_the_end_leaves_the_run_to_be_resumed(command, unfinished, dense):
    before = contents(unfinished)
    done = command("resume", str(unfinished), machine=Machine(file_size=3000))
    assert done.code == 1
    [said] = done.said
    assert said.startswith(f"error: the result cannot be written to {unfinished}: ")
    assert said.endswith("; make room and resume")
    after = contents(unfinished)
    told = after.pop("events.jsonl").removeprefix(before.pop("events.jsonl"))
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["start", "failed"]
    assert after == before
    assert command("resume", str(unfinished)).code == 0
    assert bits(unfinished) == bits(dense)
