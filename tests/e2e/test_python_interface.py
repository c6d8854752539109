"""`fedbonsai.run` with models, losses and data of one's own."""

import dataclasses
import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

import fedbonsai
from fedbonsai.core.errors import CheckpointError, ConfigError, DataError
from fedbonsai.experiment.api import IN_TASK_AND_METHOD
from fedbonsai.experiment.config import Experiment
from fedbonsai.experiment.execute import Result
from fedbonsai.methods import METHODS, method_class
from tests.e2e.command import bits, contents, timeless
from tests.e2e.settings import WITHOUT_EFFECT, of_experiments, of_methods
from tests.e2e.tasks import examples, make_task
from tests.golden.schema import violations

EXPERIMENT = of_experiments()
OWN = {name: case for name, case in EXPERIMENT.items() if name not in IN_TASK_AND_METHOD | {"kernel"}}
"""Settings to be tried on a model with a batch norm, which no kernel but ``loop`` trains."""
ROUNDS: dict[str, Any] = {"rounds": 2, "cohort": 3, "batch_size": 8}
ONCE: dict[str, Any] = {"rounds": 1, "cohort": 2, "batch_size": 8}


def run(task: fedbonsai.Task | None = None, **settings: Any) -> Result:
    return fedbonsai.run(task or make_task(), fedbonsai.methods.FedAvg(), **{**ROUNDS, **settings})


def outcome(result: Result) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    return {name: one.flatten().tolist() for name, one in result.tensors.items()}, timeless(result.rounds)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def test_the_result_is_what_is_written(tmp_path):
    result = run(out=tmp_path / "made")
    assert result.directory == tmp_path / "made"
    assert json.loads((tmp_path / "made" / "result.json").read_text()) == json.loads(json.dumps(result.record))
    assert violations(json.loads(json.dumps(result.record))) == []
    assert result.record["config"]["dataset"] == "own"
    assert result.final["test_metric"] == result.rounds[-1]["test_metric"]
    inputs, targets = examples(30, 9)
    assert not result.model.training
    accuracy = float((result.model(inputs).argmax(1) == targets).float().mean())
    assert accuracy == pytest.approx(result.final["test_metric"])
    assert set(contents(tmp_path / "made")) >= {"model.safetensors", "report.html", "checkpoint/state.safetensors"}


def test_a_loss_that_is_no_number_is_null(tmp_path):
    inputs, _ = examples(30, 9)
    far = (inputs, torch.full((30, 3), 1e30))  # whose squares are infinite
    near = [(one, one[:, :3]) for one, _ in (examples(20, seed) for seed in range(3))]
    task = fedbonsai.Task(model=lambda: nn.Linear(6, 3), loss="mse", clients=near, test=far)
    result = run(task, out=tmp_path / "made")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    written = json.loads((tmp_path / "made" / "result.json").read_text(), parse_constant=refuse)
    assert result.final["test_loss"] == float("inf")
    assert written["final"]["test_loss"] is written["rounds"][0]["test_loss"] is None
    assert violations(written) == []


def test_without_a_directory_nothing_is_written_and_the_same_comes_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list[dict[str, Any]] = []
    result = run(observer=seen.append)
    assert result.directory is None
    assert not list(tmp_path.iterdir())
    assert seen == result.rounds
    assert outcome(result) == outcome(run(out="made"))
    assert [one.name for one in tmp_path.iterdir()] == ["made"]


def test_a_run_found_in_its_directory_is_taken_up(tmp_path):
    first = run(out=tmp_path / "made")
    again = run(out=tmp_path / "made", observer=lambda row: pytest.fail(f"round {row['round']} is held again"))
    assert outcome(again) == outcome(first)
    assert first.final["seconds"] == again.final["seconds"]


def test_a_directory_with_a_run_of_another_model_is_refused(tmp_path):
    run(out=tmp_path / "made")
    before = bits(tmp_path / "made")
    other = dataclasses.replace(make_task(), model=lambda: nn.Linear(6, 3))
    with pytest.raises(CheckpointError, match=r"must hold a run of this model; hidden\.\w+ has shape"):
        run(other, out=tmp_path / "made")
    assert bits(tmp_path / "made") == before


@pytest.mark.parametrize("part", ["a client's input", "a target", "the test set", "who has what"])
def test_a_directory_with_a_run_on_other_data_is_refused(tmp_path, part):
    clients, test = [examples(20, seed) for seed in range(3)], examples(30, 9)
    run(dataclasses.replace(make_task(), clients=clients, test=test), out=tmp_path / "made")
    if part == "a client's input":
        clients[2] = (clients[2][0] + torch.eye(20, 6), clients[2][1])
    elif part == "a target":
        clients[0] = (clients[0][0], clients[0][1].roll(1))
    elif part == "the test set":
        test = examples(31, 9)
    else:
        clients = [clients[0], clients[2], clients[1]]
    with pytest.raises(CheckpointError, match="resume with the settings and the data that it was started with"):
        run(dataclasses.replace(make_task(), clients=clients, test=test), out=tmp_path / "made")


def test_the_command_line_sends_a_run_from_python_back_to_python(command, tmp_path):
    run(out=tmp_path / "made")
    (tmp_path / "made" / "result.json").unlink()
    done = command("resume", str(tmp_path / "made"))
    assert (done.code, done.out) == (1, "")
    assert "goes on from Python: call fedbonsai.run as before, with the same out" in done.err


@cache
def once(settings: frozenset[tuple[str, Any]]) -> Result:
    """One round of a model with a batch norm, so that every setting means something."""
    own = dict(settings)
    clients = [examples(20, seed) for seed in range(max(3, own.get("cohort", 0)))]
    task = dataclasses.replace(make_task(clients), model=with_batch_norm)
    return fedbonsai.run(task, method_class(own.pop("method", "fedavg"))(), **{**ONCE, **own})


@pytest.mark.parametrize("name", OWN)
def test_a_setting_of_the_experiment_is_taken_and_has_its_effect(name):
    value, beside = OWN[name]
    beside = {key: one for key, one in beside.items() if key == "method" or key not in IN_TASK_AND_METHOD}
    result, without = once(frozenset({**beside, name: value}.items())), once(frozenset(beside.items()))
    assert result.record["config"][name] == value
    assert without.record["config"][name] != value
    assert (outcome(result) == outcome(without)) == (name in WITHOUT_EFFECT)


@pytest.mark.parametrize(
    ("method", "name", "settings"), of_methods(), ids=lambda one: one if isinstance(one, str) else ""
)
def test_a_setting_of_a_method_is_taken(method, name, settings):
    once = {**ONCE, "rounds": settings.get("rounds", 1)}
    settings = {key: value for key, value in settings.items() if key not in EXPERIMENT}
    task = dataclasses.replace(make_task(), model=with_batch_norm)
    result = fedbonsai.run(task, method_class(method)(**settings), **once)
    usual = vars(method_class(method)())
    assert result.record["config"]["method_settings"] == {k: v for k, v in settings.items() if v != usual[k]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"speed": 3},
            r"unknown setting 'speed'; did you mean 'seed'\? known: batch_norm, batch_size, bound, byzantine, ",
        ),
        *(({name: 1}, f"unknown setting '{name}'") for name in ("model", "width", "shards", "clients")),
        ({"lr": "fast"}, "lr: input should be a valid number, unable to parse string as a number, got 'fast'"),
        ({"epochs": 1.5}, "epochs: input should be a valid integer, got a number with a fractional part, got 1.5"),
        ({"rounds": 0}, r"rounds must be in \[1, inf\), got 0"),
        ({"cohort": 4}, "cohort must be at most clients=3, got 4"),
        ({"engine": "flower"}, "engine=flower is for `fedbonsai run"),
        ({"tiers": "0.5"}, "tiers=0.5 would not be used"),
        ({"engine": "warp"}, "engine: input should be 'auto', 'local', 'processes', 'ray' or 'flower', got 'warp'"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum=0.5 would not be used: it needs optimizer=sgd, got adam"),
        ({"batch_norm": "static"}, "batch_norm=static would not be used: the model has no batch norm"),
        ({"holdout": 0.3}, "holdout=0.3 would not be used: fedavg has no personal models"),
    ],
)
def test_a_setting_that_is_wrong_is_an_error(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        run(out=tmp_path / "made", **settings)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("density", [0, -1, 1.5, float("nan")])
def test_a_density_out_of_range_is_an_error(density):
    with pytest.raises(ConfigError, match=r"density must be in \(0, 1\], got "):
        fedbonsai.methods.LocalPrune(density=density)


class Scale(nn.Module):
    """A model that has nothing to prune: one factor a column."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :3] * self.factor


def test_a_model_without_prunable_weights_can_be_trained_and_not_pruned():
    task = dataclasses.replace(make_task(), model=Scale)
    result = run(task)
    assert (result.final["parameters"], result.final["density"]) == (3, 1.0)
    with pytest.raises(ConfigError, match="a model to prune needs parameters of two or more dimensions"):
        fedbonsai.run(task, fedbonsai.methods.LocalPrune(), **ROUNDS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Identity, "a model needs parameters, all of them float32, got none"),
        (lambda: nn.Linear(6, 3).double(), "a model needs parameters, all of them float32, got "),
        (
            lambda: nn.Linear(5, 3),
            r"fit each other, on the first examples: the model \(Linear\), given \(2, 6\): mat1",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(5, 3)), r"layer '1' \(Linear\), given \(2, 4\): mat1"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (3, 1))), "on the first examples: the loss: Expected"),
        (lambda: empty(nn.Linear(6, 3)), "weight: a model must begin with finite weights, got NaN or infinity"),
    ],
)
def test_a_model_that_cannot_be_trained_is_an_error(model, said):
    with pytest.raises(ConfigError, match=said):
        run(dataclasses.replace(make_task(), model=model))


def empty(module: nn.Module) -> nn.Module:
    for one in module.parameters():
        nn.init.constant_(one, torch.nan)
    return module


@pytest.mark.parametrize(
    "method",
    [
        fedbonsai.methods.FedDST(period=3),
        fedbonsai.methods.FedSparsify(frequency=3),
        fedbonsai.methods.Flash(variant="jmwst", interval=3),
        fedbonsai.methods.FedPM(reset=3),
    ],
    ids=repr,
)
def test_a_round_past_the_end_of_the_run_is_an_error(method):
    with pytest.raises(ConfigError, match="must be at most the 2 rounds of the run, got 3"):
        fedbonsai.run(make_task(), method, **{**ROUNDS, "rounds": 2})


def squares(count: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs, _ = examples(count, seed)
    return inputs, inputs[:, :1] ** 2


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets)


def closeness(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - (outputs - targets).abs().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("loss", "metric", "named"),
    [
        (fedbonsai.losses.mse, None, "minus mean absolute error"),
        ("mse", None, "minus mean absolute error"),
        (squared_error, None, "minus loss"),
        (squared_error, closeness, "metric"),
    ],
)
def test_regression_with_a_loss_of_ones_own(loss, metric, named):
    clients = [squares(20, seed) for seed in range(3)]
    task = fedbonsai.Task(lambda: nn.Linear(6, 1), loss, clients, squares(30, 9), metric=metric)
    result = run(task)
    assert result.final["metric"] == named
    if metric is None:
        assert result.final["test_error"] == -result.final["test_metric"]
    else:
        inputs, targets = squares(30, 9)
        assert result.final["test_metric"] == pytest.approx(
            float(closeness(result.model(inputs).detach(), targets).mean())
        )


class Guess(nn.Module):
    """A next-token model: an embedding and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens))


@pytest.mark.parametrize("method", METHODS)
def test_next_tokens(method):
    texts = torch.arange(40).reshape(4, 10) % 5
    data = [(texts, (texts + 1) % 5)] * 3
    task = fedbonsai.Task(Guess, fedbonsai.losses.next_token, data, data[0])
    cls = method_class(method)
    settings = {"density": 0.6} if "density" in vars(cls()) else {}  # a tenth of forty weights learns nothing
    result = fedbonsai.run(task, cls(**settings), lr=1.0, **{**ROUNDS, "rounds": 3})
    assert result.final["metric"] == "accuracy"
    losses = [row["test_loss"] for row in result.rounds if row["stage"] == "train"]
    assert all(isinstance(loss, float) for loss in losses)
    # A ticket begins anew when it is pruned, so its loss may rise in a run of three rounds.
    assert losses[-1] < losses[0] or method == "lotteryfl"


class Pairs(Dataset[tuple[Tensor, int]]):
    """A data set as torch has them: a length, and items."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], int(self.targets[index])


def test_data_come_in_many_forms_and_mean_the_same():
    plain = [examples(20, seed) for seed in range(3)]
    forms = [
        plain,
        [TensorDataset(*one) for one in plain],
        [Pairs(*one) for one in plain],
        [fedbonsai.Pool(*one) for one in plain],
    ]
    shared = fedbonsai.Pool(*(torch.cat(parts) for parts in zip(*plain, strict=True)))
    tasks = [make_task(clients) for clients in forms]
    tasks.append(dataclasses.replace(tasks[0], clients=shared, positions=list(torch.arange(60).split(20))))
    first, *others = [outcome(run(task, rounds=1)) for task in tasks]
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ([], r"clients must be in \[1, inf\), got 0"),
        ([examples(5, 1), (torch.zeros(5, 7), torch.zeros(5).long())], "the inputs of all clients must have one shape"),
        (
            [Pairs(torch.zeros(2, 6), torch.zeros(3).long())],
            "a data set must give .* of one shape; index 2 is out of bounds",
        ),
    ],
)
def test_data_that_do_not_fit_are_an_error(clients, said):
    with pytest.raises((DataError, ConfigError), match=said):
        run(make_task(clients), cohort=1)


def test_inputs_and_targets_must_be_equally_many():
    with pytest.raises(DataError, match="inputs and targets must be equally many, got 3 and 2"):
        run(make_task([(torch.zeros(3, 6), torch.zeros(2).long())]), cohort=1)


def test_the_names_of_the_package_are_its_interface():
    assert set(fedbonsai.__all__) <= set(dir(fedbonsai))
    assert all(getattr(fedbonsai, name) is not None for name in fedbonsai.__all__)
    with pytest.raises(AttributeError, match="fedbonsai has no 'rnu'; it has Pool, Result, Task"):
        _ = fedbonsai.rnu
    with pytest.raises(AttributeError, match=r"fedbonsai\.methods has no FedVag; it has FedAvg"):
        _ = fedbonsai.methods.FedVag
    assert {field.name for field in dataclasses.fields(Experiment)} >= {*OWN, *IN_TASK_AND_METHOD}


def test_personal_models_are_not_one_for_all():
    result = fedbonsai.run(make_task(), fedbonsai.methods.LotteryFL(accuracy=0.0), **ROUNDS)
    assert result.final["scope"] == "personal"
    with pytest.raises(ConfigError, match="lotteryfl has a model for each client and none of all"):
        _ = result.model
