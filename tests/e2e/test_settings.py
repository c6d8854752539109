"""Every setting works from the command line; what is unknown, unused or out of range is one line that helps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedbonsai.methods import method_class
from tests.e2e.command import SMALL, bits, contents, result
from tests.e2e.settings import BASE, WITHOUT_EFFECT, as_pairs, of_experiments, of_methods

EXPERIMENT = of_experiments()
PLAIN = ("digits", "--clients", "4", "--cohort", "3", "--rounds", "1")
Runner = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("settings")


@pytest.fixture
def run(command, folder) -> Runner:
    """Runs with some settings, once for equal ones."""

    def go(settings: dict[str, Any]) -> Path:
        out = folder / "-".join(["run", *(f"{key}={value}" for key, value in sorted(settings.items()))])
        if not out.exists():
            done = command("run", "digits", *as_pairs({**BASE, **settings}), "--out", str(out))
            assert done.code == 0, done.err
        return out

    return go


def _marked(name: str) -> object:
    """A setting that only the largest model has takes its time; the Python interface tests it with a small one."""
    return pytest.param(name, marks=pytest.mark.slow) if "norm" in {name, *EXPERIMENT[name][1]} else name


@pytest.mark.parametrize("name", [_marked(name) for name in EXPERIMENT])
def test_a_setting_of_the_experiment_is_taken_and_has_its_effect(run, name):
    value, beside = EXPERIMENT[name]
    out, without = run({**beside, name: value}), run(beside)
    assert result(out)["config"][name] == value
    assert result(without)["config"][name] != value
    assert (bits(out) == bits(without)) == (name in WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("method", "name", "settings"), of_methods(), ids=lambda one: one if isinstance(one, str) else ""
)
def test_a_setting_of_a_method_is_taken(run, method, name, settings):
    out = run({"method": method, **settings})
    own = {key: value for key, value in settings.items() if key not in EXPERIMENT}
    assert result(out)["config"]["method_settings"] == own
    assert result(out)["config"]["method"] == method


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "fedvag"], "error: unknown method 'fedvag'; did you mean 'fedavg'? known: "),
        (["--set", "model=mpl"], "error: unknown model 'mpl'; did you mean 'mlp'? known: cnn, leaf_cnn, lenet5, "),
        (["--set", "dataset=digit"], "error: unknown data set 'digit'; did you mean 'digits'? known: cifar10, "),
        (["--set", "rate=1"], "error: unknown setting 'rate'; known: batch_norm, batch_size, bound, byzantine, "),
        (["--set", "method.lr=1"], "error: unknown setting 'lr'; known: server_lr, server_optimizer"),
        (["--set", "experiment.server_lr=1"], "error: unknown setting 'server_lr'; known: batch_norm, "),
        (["--set", "server.lr=1"], "error: a setting is method.key, experiment.key or key, got 'server.lr'"),
        (
            ["--set", "server_optimizer=sgd"],
            "server_optimizer: input should be 'none', 'momentum' or 'adam', got 'sgd'",
        ),
        (
            ["--engine", "warp"],
            "error: engine: input should be 'auto', 'local', 'processes', 'ray' or 'flower', got 'warp'",
        ),
        (["--set", "lr"], "error: a setting must be written key=value, got 'lr'"),
        (["--set", "lr=1", "--set", "lr=2"], "error: a setting must be given once, got 'lr' twice"),
        (
            ["--set", "lr=fast"],
            "error: lr: input should be a valid number, unable to parse string as a number, got 'fast'",
        ),
        (["--set", "lr=nan"], "error: lr must be in (0, inf), got nan"),
        (["--set", "clip=0"], "error: clip must be in (0, inf), got 0.0"),
        (["--set", "validation=1"], "error: validation must be in [0, 1), got 1.0"),
        (["--rounds", "0"], "error: rounds must be in [1, inf), got 0"),
        (["--rounds", "two"], "error: Invalid value for '--rounds': 'two' is not a valid integer."),
        (["--seed", "-1"], "error: seed must be in [0, 9.22337e+18), got -1"),
        (["--cohort", "5"], "error: cohort must be at most clients=4, got 5"),
        (["--set", "min_clients=4"], "error: min_clients must be at most cohort=3, got 4"),
        (["--clients", "1438"], "error: clients must be 1 to 1437, the training examples of 'digits', got 1438"),
        (["--speed", "9"], "error: No such option '--speed'."),
        (
            ["--method", "local-prune", "--set", "density=0.5", "--set", "threshold=1"],
            "error: give density or threshold",
        ),
        (
            ["--method", "feddst", "--set", "period=2"],
            "error: period must be at most the 1 rounds of the run, got 2; lower it or leave it out",
        ),
        (["--method", "local-prune", "--set", "density=1e-6"], "error: density must be at least 0.01"),
        *(
            (["--method", "local-prune", "--set", f"density={value}"], f"error: density must be in (0, 1], got {got}")
            for value, got in (("0", "0.0"), ("-1", "-1.0"), ("1.5", "1.5"), ("nan", "nan"))
        ),
    ],
    ids=lambda one: one[-1] if isinstance(one, list) else "",
)
def test_a_setting_that_is_wrong_is_one_line_and_leaves_nothing_behind(command, tmp_path, arguments, said):
    out = tmp_path / "made"
    done = command("run", *PLAIN, *arguments, "--out", str(out))
    assert done.code in (1, 2)
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    "pairs",
    [
        ("partition=iid", "concentration=0.3"),
        ("partition=dirichlet", "shards=3"),
        ("optimizer=adam", "momentum=0.5"),
        ("lr_end=0.5",),
        ("steps=3", "epochs=2"),
        ("engine=local", "workers=2"),
        ("model=mlp", "norm=batch"),
        ("model=mlp", "batch_norm=static"),
        ("model=mlp", "batch_norm=local"),
        ("holdout=0.3",),
        ("method=local-prune", "tolerance=0.3"),
        ("method=local-prune", "recover=rollback", "regrow=0.3"),
        ("method=local-prune", "slack=0.1"),
        ("method=local-prune", "threshold=0.3", "reach=0.5"),
    ],
    ids=" ".join,
)
def test_a_setting_that_would_not_be_used_is_an_error(command, tmp_path, pairs):
    out = tmp_path / "made"
    done = command("run", *PLAIN, *(word for pair in pairs for word in ("--set", pair)), "--out", str(out))
    assert done.code == 1
    assert "would not be used" in done.err or "must be left alone" in done.err
    assert done.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    "pairs", [("momentum=0.5",), ("concentration=5",), ("optimizer=sgd", "momentum=0.5")], ids=" ".join
)
def test_a_setting_whose_partner_the_data_set_suggests_is_used(command, tmp_path, pairs):
    arguments = [word for pair in pairs for word in ("--set", pair)]
    assert command("run", *SMALL, "--rounds", "1", *arguments, "--out", str(tmp_path / "made")).code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fedavg,fedavg"], "error: a comparison takes each method once, got fedavg, fedavg"),
        (["--methods", "fedavg,"], "error: unknown method ''; known: fedavg, "),
        (
            ["--methods", "fedavg", "--densities", "0.2"],
            "error: densities were given, but none of fedavg prunes to one",
        ),
        (["--densities", "0.2,x"], "error: densities must be numbers separated by commas, got '0.2,x'"),
        (["--densities", "0.2,0"], "error: density must be in (0, 1], got 0.0"),
        (["--densities", "0.2,nan"], "error: density must be in (0, 1], got nan"),
        (["--set", "rate=1"], "error: unknown setting 'rate'; known: absent, adaptive, "),
        (["--set", "method=fedavg"], "error: unknown setting 'method'; known: absent, adaptive, "),
        (["--set", "model=mpl"], "error: unknown model 'mpl'; did you mean 'mlp'?"),
    ],
    ids=lambda one: one[-1] if isinstance(one, list) else "",
)
def test_a_comparison_that_is_wrong_is_one_line_and_trains_nothing(command, tmp_path, arguments, said):
    done = command("compare", *PLAIN, *arguments, "--out", str(tmp_path / "made"))
    assert done.code == 1
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "error: no experiment file "),
        ("lr = ", "must be a TOML file; Invalid value"),
        ("rate = 1", "error: unknown setting 'rate'; known: batch_norm, "),
        ("rounds = 1.5", "error: rounds: input should be a valid integer"),
        ("rounds = [1]", "error: rounds: input should be a valid integer"),
        ("method_settings = 3", "error: method_settings must be a table, [method_settings], got 3"),
        ("[method_settings]\nrate = 1", "error: unknown fedavg setting 'rate'; known: server_lr, server_optimizer"),
        ("clients = 4\ncohort = 9", "error: cohort must be at most clients=4, got 9"),
    ],
)
@pytest.mark.parametrize("name", ["run", "compare"])
def test_an_experiment_file_that_is_wrong_is_one_line(command, tmp_path, name, text, said):
    file = tmp_path / "experiment.toml"
    if text is not None:
        file.write_text(text)
    done = command(name, str(file), "--out", str(tmp_path / "made"))
    assert done.code == 1
    assert said in done.err or (name == "compare" and "unknown setting 'rate'" in done.err)
    assert done.err.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["methods", "fedvag"], "error: unknown method 'fedvag'; did you mean 'fedavg'? known: "),
        (["datasets", "minst"], "error: unknown data set 'minst'; did you mean 'mnist'? known: cifar10, "),
        (["resume", "nowhere"], "error: nowhere must hold a run (experiment.toml), it does not"),
        (["run"], "error: Missing argument 'DATASET|FILE.toml'."),
        (["rnu"], "error: No such command 'rnu'."),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_a_name_that_does_not_exist_is_one_line(command, arguments, said):
    done = command(*arguments)
    assert done.code in (1, 2)
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_every_method_can_be_made_without_any_setting(run):
    for method in {method for method, _, _ in of_methods()}:
        assert method_class(method)().name == method
        assert result(run({"method": method}))["config"]["method_settings"] == {}
