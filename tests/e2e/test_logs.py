"""A log for programs: every line on standard error is one JSON object, whatever happens."""

import json
from typing import Any

import pytest

from tests.e2e.command import SMALL, Done, fedbonsai, result


def entries(done: Done) -> list[dict[str, Any]]:
    found = [json.loads(line, parse_constant=pytest.fail) for line in done.err.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(entry) for entry in found)
    assert all(entry["time"].endswith("+00:00") for entry in found)
    return found


def test_every_round_is_an_entry_with_its_row(command, tmp_path):
    out = tmp_path / "made"
    done = command("--log-format", "json", "run", *SMALL, "--method", "local-prune", "--out", str(out))
    assert done.code == 0
    found = entries(done)
    rows = [entry["row"] for entry in found if "row" in entry]
    for row, kept in zip(rows, result(out)["rounds"], strict=True):
        assert row.pop("seconds_left") >= 0
        assert row == {key: kept[key] for key in row}
        assert {"round", "stage", "density", "bytes_down", "bytes_up", "test_metric", "dropped"} <= set(row)
    others = [entry for entry in found if "row" not in entry]
    assert [(entry["level"], entry["message"].split(":")[0]) for entry in others] == [("info", "round 1")]
    assert "test accuracy" in done.out


def test_warnings_and_the_error_that_ends_a_command_are_entries_too(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBONSAI_LOG", "json")
    slow = ("--engine", "local", "--set", "client_timeout=1e-9")
    done = fedbonsai("run", *SMALL, *slow, "--out", "made", cwd=tmp_path)
    assert done.code == 1
    *dropped, error = entries(done)
    assert [(entry["level"], entry["logger"]) for entry in dropped] == 2 * [("warning", "fedbonsai.federated.ledger")]
    assert error["level"] == "error"
    assert error["message"].startswith("round 1 (train) needs at least 1 clients")


def test_a_mistake_in_the_arguments_is_an_entry_too(command):
    done = command("--log-format", "json", "run", "digits", "--roundz", "3")
    assert done.code == 2
    [entry] = entries(done)
    assert "--roundz" in entry["message"]


def test_a_form_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDBONSAI_LOG", "xml")
    done = fedbonsai("methods", cwd=tmp_path)
    assert done.code == 2
    assert "'xml' is not one of 'text', 'json'" in done.err
