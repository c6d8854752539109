"""`fedbonsai flower new` writes an app that runs at once, and in a simulation equals the engine local."""

import dataclasses
import json
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from flower_grid import InProcessGrid, server_context
from safetensors.torch import load_file

from fedbonsai.core.errors import ConfigError
from fedbonsai.engines.flower import Patience
from fedbonsai.experiment.build import make_method, resolve
from fedbonsai.experiment.execute import Job, execute
from fedbonsai.experiment.settings import make_experiment, read_toml
from fedbonsai.flower import simulation
from fedbonsai.flower.project import new_project


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A new app, made small, whose files can be imported as Flower imports them."""
    folder = tmp_path / "app"
    new_project(folder, "mine")
    file = folder / "experiment.toml"
    file.write_text(
        file.read_text().replace("rounds = 10", "rounds = 2").replace("batch_size = 16", "batch_size = 256")
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("fedbonsai.engines.flower.LOOK_AROUND", 0.0)
    monkeypatch.setattr(Patience, "poll", 0.001)
    yield folder
    simulation._worker.cache_clear()
    for name in ("task", "server_app", "client_app"):
        sys.modules.pop(name, None)


def loaded(folder, name):
    """What a component of the app's pyproject.toml names."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    module, _, attribute = project["tool"]["flwr"]["app"]["components"][name].partition(":")
    spec = spec_from_file_location(module, folder / f"{module}.py")
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return getattr(found, attribute)


def settings(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def outcome(out):
    rows = json.loads((out / "result.json").read_text())["rounds"]
    return [(row["bytes_down"], row["bytes_up"], row["dropped"]) for row in rows], load_file(out / "model.safetensors")


@pytest.mark.parametrize("nodes", [1, 2])
def test_in_a_simulation_of_flowers_it_equals_the_engine_local(app, tmp_path, nodes):
    config = settings(app) | {"out": str(tmp_path / "virtual"), "min-nodes": nodes}
    client = loaded(app, "clientapp")
    virtual = {10 + place: (client, {"partition-id": place, "num-partitions": nodes}) for place in range(nodes)}
    loaded(app, "serverapp")(InProcessGrid(virtual, run_config=config), server_context(**config))
    import task as own

    experiment = resolve(make_experiment(read_toml(app / "experiment.toml"), {"engine": "local"}))
    whole = dataclasses.replace(own.task(), clients=[own.data(client) for client in range(own.CLIENTS)])
    execute(Job(experiment, whole, make_method(experiment)), tmp_path / "local")
    rows, weights = outcome(tmp_path / "virtual")
    expected_rows, expected = outcome(tmp_path / "local")
    assert rows == expected_rows
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert list((tmp_path / "virtual" / "memories").glob("*/1-2.memory"))  # what a run that goes on needs


def test_settings_that_a_run_needs_can_be_given(app, tmp_path):
    assert set(settings(app)) == {"out", "min-nodes", "wait-seconds", "answer-seconds", "data-dir"}
    for out in ("", "runs/here"):
        config = settings(app) | {"out": out, "wait-seconds": 0.0}
        with pytest.raises(ConfigError, match="directory of the run as out"):
            loaded(app, "serverapp")(InProcessGrid({}), server_context(**config))


def test_a_task_has_the_clients_of_its_experiment(app, tmp_path):
    file = app / "experiment.toml"
    file.write_text(file.read_text().replace("clients = 2\n", "clients = 3\n", 1))
    config = settings(app) | {"out": str(tmp_path / "out"), "wait-seconds": 0.0}
    with pytest.raises(ConfigError, match="got 3, 2"):
        loaded(app, "serverapp")(InProcessGrid({}), server_context(**config))


def test_a_simulation_needs_the_number_of_clients(app, caplog, tmp_path):
    file = app / "experiment.toml"
    file.write_text(file.read_text().replace("clients = 2\n", "", 1))
    config = settings(app) | {"out": str(tmp_path / "out"), "min-nodes": 1, "wait-seconds": 0.2}
    grid = InProcessGrid({10: (loaded(app, "clientapp"), {"partition-id": 0, "num-partitions": 1})}, run_config=config)
    with pytest.raises(Exception, match="1 devices must be there"):
        loaded(app, "serverapp")(grid, server_context(**config))
    assert any("must have the number of clients" in line for line in caplog.messages)


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="must be empty"):
        new_project(tmp_path / "app")
    assert [one.name for one in (tmp_path / "app").iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="directory that can be written"):
        new_project(tmp_path / "app" / "mine" / "below")


@pytest.mark.parametrize("name", ["", "Mine", "1st", "a b", 'a"', "a\nb", "a" * 51])
def test_names_are_simple(tmp_path, name):
    with pytest.raises(ConfigError, match="lower-case letters"):
        new_project(tmp_path / "app", name)
    assert not (tmp_path / "app").exists()


def test_an_app_asks_a_superlink_to_install_nothing(tmp_path):
    new_project(tmp_path / "My_App")
    project = tomllib.loads((tmp_path / "My_App" / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["dependencies"]) == ("my-app", [])
