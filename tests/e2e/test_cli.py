"""The commands as a person types them: what they do, write and say when all is well."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedbonsai.cli.progress import Progress
from fedbonsai.core.fields import describe
from fedbonsai.data.info import DATASETS
from fedbonsai.experiment.config import Experiment
from fedbonsai.methods import METHODS, method_class
from tests.e2e.command import QUICK, SMALL, Machine, bits, contents, fedbonsai, on_terminal, result, without_control
from tests.golden.schema import violations

FILES = {
    *("experiment.toml", "result.json", "model.safetensors", "report.html"),
    *("checkpoint/state.safetensors", "events.jsonl"),
}
TABLE = re.compile(r"^run +test accuracy .*\n(?:fedavg|local-prune)", re.MULTILINE)


def test_run_shows_progress_on_a_pipe_prints_a_table_and_writes_its_directory(tmp_path):
    done = fedbonsai("run", *QUICK, "--method", "local-prune", "--rounds", "3", "--out", "made", cwd=tmp_path)
    assert done.code == 0, done.err
    progress = [line for line in done.err.splitlines() if line.endswith(" s left")]
    assert [line.split(" | ")[0] for line in progress] == [f"digits local-prune: round {n}" for n in (1, 2, 3)]
    assert all("metric 0." in line and "density " in line for line in progress)
    assert len(TABLE.findall(done.out)) == 1
    assert "…" not in done.out
    assert "results: made   report: made/report.html" in done.out
    assert set(contents(tmp_path / "made")) >= FILES
    assert violations(result(tmp_path / "made")) == []


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path):
    code, shown = on_terminal("run", *SMALL, "--method", "local-prune", "--out", str(tmp_path / "made"), columns=160)
    assert code == 0
    assert b"\x1b[" in shown
    lines = re.split(r"[\r\n]+", without_control(shown))
    assert any(re.fullmatch(r"digits local-prune ━+ 2/2 round 2 \| .* left 0:00:00", line) for line in lines)
    assert any(line.startswith("round 1: pruning starts") for line in lines)  # above the bar, not in it
    assert not any(line.endswith(" s left") for line in lines)


def test_the_time_left_counts_what_was_done_before_a_resumption_and_what_other_runs_still_need(capsys):
    def row(number: int, stage: str = "train") -> dict[str, Any]:
        zeros = dict.fromkeys(("density", "bytes_down", "bytes_up", "dropped"), 0)
        return {"round": number, "stage": stage, "test_metric": None, "train_loss": None, "seconds": 10.0, **zeros}

    with Progress("digits", rounds=20) as progress:
        first, second = progress.follow(10, "first"), progress.follow(10, "second")
        first(row(9))  # rounds 1 to 8 were held by a process that was killed
        first(row(9, "score"))
        first(row(10))
        second(row(1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["first", "first", "first", "second"]
    assert [line.rpartition(" | ")[2] for line in lines] == ["110 s left", "220 s left", "150 s left", "120 s left"]


def test_results_keep_the_contract(dense, pruned):
    for out in (dense, pruned):
        record = result(out)
        assert violations(record) == []
        assert set(record["config"]) == {one.name for one in describe(Experiment)}
        assert record["config"]["engine"] in ("local", "processes")
        assert set(record["environment"]) == {"python", "torch", "fedbonsai", "cpu", "threads"}
        assert [row["round"] for row in record["rounds"]] == [1, 2]
    assert result(dense)["final"]["density"] == 1.0
    assert result(pruned)["final"]["density"] == pytest.approx(0.2, abs=1e-3)


def test_resume_leaves_a_finished_run_as_it_is(command, dense):
    before = contents(dense)
    done = command("resume", str(dense))
    assert (done.code, done.out, done.err) == (0, f"{dense} is finished: see {dense / 'result.json'}\n", "")
    assert contents(dense) == before


def test_a_finished_run_that_is_run_again_computes_nothing(command, tmp_path, dense):
    out = tmp_path / "again"
    assert command("run", *SMALL, "--out", str(out)).code == 0
    done = command("run", *SMALL, "--out", str(out))
    assert (done.code, done.err) == (0, "")
    assert bits(out) == bits(dense)


def test_compare_gives_all_methods_the_same_clients_data_and_cohorts(tmp_path):
    arguments = ("--methods", "fedavg,local-prune", "--densities", "0.5,0.3", "--out", "made")
    done = fedbonsai("compare", *SMALL, *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    labels = ["fedavg", "local-prune-0.5", "local-prune-0.3"]
    assert len(re.findall(r"^run +test accuracy", done.out, re.MULTILINE)) == 1
    rows = re.findall(r"^(?:fedavg|local-prune(?: density=0\.\d)?) +\d", done.out, re.MULTILINE)
    assert [row[:-1].strip().replace(" density=", "-") for row in rows] == labels
    assert {one.name for one in (tmp_path / "made").iterdir()} == {*labels, "report.html"}
    assert all(f"{label}: round 2 | " in done.err for label in labels)
    assert all(label in (tmp_path / "made" / "report.html").read_text() for label in labels)

    records = [result(tmp_path / "made" / label) for label in labels]
    assert [record["final"]["density"] for record in records] == pytest.approx([1.0, 0.5, 0.3], abs=1e-3)
    dense, *others = [record["rounds"] for record in records]
    for rows in others:
        assert [row["dropped"] for row in rows] == [row["dropped"] for row in dense]
        assert [row["clients"] for row in rows] == [row["clients"] for row in dense]
        # Equal cohorts, weights and batches: the first round trains alike. Its tasks differ by two numbers a client.
        assert rows[0]["train_loss"] == dense[0]["train_loss"]
        assert 0 <= rows[0]["bytes_down"] - dense[0]["bytes_down"] < 2 * 64


def test_compare_gives_each_setting_to_the_methods_that_have_it(command, tmp_path):
    arguments = ("--set", "recover=gradient", "--set", "server_lr=0.5", "--set", "lr=0.2")
    assert command("compare", *SMALL, "--rounds", "1", *arguments, "--out", str(tmp_path / "made")).code == 0
    configs = {label: result(tmp_path / "made" / label)["config"] for label in ("fedavg", "local-prune")}
    assert configs["fedavg"]["method_settings"] == {"server_lr": 0.5}
    assert configs["local-prune"]["method_settings"] == {"recover": "gradient", "server_lr": 0.5}
    assert {config["lr"] for config in configs.values()} == {0.2}


def test_compare_leaves_tiers_to_the_methods_that_have_them(command, tmp_path):
    arguments = ("--methods", "fedavg,heterofl", "--set", "tiers=1, 0.5", "--set", "redraw_tiers=true", "--rounds", "1")
    assert command("compare", *SMALL, *arguments, "--out", str(tmp_path / "made")).code == 0
    configs = {label: result(tmp_path / "made" / label)["config"] for label in ("fedavg", "heterofl")}
    assert (configs["fedavg"]["tiers"], configs["fedavg"]["redraw_tiers"]) == (None, None)
    assert (configs["heterofl"]["tiers"], configs["heterofl"]["redraw_tiers"]) == ("1, 0.5", True)
    done = command(
        "compare", *SMALL, "--methods", "fedavg,fedprox", "--set", "tiers=1, 0.5", "--out", str(tmp_path / "no")
    )
    assert done.code == 1
    assert "tiers=1, 0.5 would not be used" in done.err


def test_settings_find_the_method_first_and_can_be_told_where_they_belong(command, tmp_path):
    pairs = ("server_lr=0.5", "lr=0.2", "method.server_optimizer=momentum", "experiment.clip=1")
    arguments = [word for pair in pairs for word in ("--set", pair)]
    assert command("run", *SMALL, "--rounds", "1", *arguments, "--out", str(tmp_path / "made")).code == 0
    config = result(tmp_path / "made")["config"]
    assert config["method_settings"] == {"server_lr": 0.5, "server_optimizer": "momentum"}
    assert (config["lr"], config["clip"]) == (0.2, 1.0)


def test_an_experiment_file_reproduces_its_run(command, tmp_path, pruned):
    done = command("run", str(pruned / "experiment.toml"), "--out", str(tmp_path / "again"))
    assert done.code == 0
    assert bits(tmp_path / "again") == bits(pruned)
    assert result(tmp_path / "again")["name"] == result(pruned)["name"]  # which ends in the digest
    assert (tmp_path / "again" / "experiment.toml").read_bytes() == (pruned / "experiment.toml").read_bytes()


def test_options_and_pairs_change_what_an_experiment_file_says(command, tmp_path, dense):
    file, out = str(dense / "experiment.toml"), tmp_path / "made"
    assert command("run", file, "--rounds", "1", "--set", "lr=0.01", "--out", str(out)).code == 0
    before, after = result(dense)["config"], result(out)["config"]
    assert {key for key in before if before[key] != after[key]} == {"rounds", "lr"}


def test_the_directory_is_named_after_the_run_unless_one_is_given(command, tmp_path, monkeypatch, dense):
    monkeypatch.chdir(tmp_path)
    assert command("run", *SMALL).code == 0
    assert [one.name for one in (tmp_path / "runs").iterdir()] == [result(dense)["name"]]


def test_another_seed_is_another_run(command, tmp_path, dense):
    assert command("run", *SMALL, "--seed", "1", "--out", str(tmp_path / "made")).code == 0
    assert result(tmp_path / "made")["config"]["seed"] == 1
    assert bits(tmp_path / "made")[0] != bits(dense)[0]


def test_methods_lists_them_all_and_every_setting_of_one(command):
    listed = command("methods").out
    for name in METHODS:
        assert re.search(rf"^{name} +\w", listed, re.MULTILINE), name
        shown = command("methods", name).out
        for field in describe(method_class(name)):
            assert re.search(rf"^{field.name} .*{re.escape(str(field.default))}", shown, re.MULTILINE), field
            assert all(word in shown for word in field.choices)


def test_datasets_lists_them_all_and_the_defaults_of_one(command):
    listed = command("datasets").out
    for name, info in DATASETS.items():
        assert re.search(rf"^{name} +{info.train:,} ", listed, re.MULTILINE), name
        shown = command("datasets", name).out
        assert info.source in shown
        for key, value in vars(info.defaults).items():
            assert re.search(rf"^{key} +{re.escape(str(value))} *$", shown, re.MULTILINE), key


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("run", "--help"), ("compare", "--help"), ("methods", "--help"), ("watch", "--help")]
)
def test_help_is_shown_without_importing_torch(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fedbonsai", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: fedbonsai")
    assert "\\" not in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"fedbonsai.cli.app", "typer"} <= imported
    assert not imported & {"torch", "numpy", "pydantic", "rich.console"}


def test_importing_the_package_does_not_import_torch():
    probe = "import sys, fedbonsai; print('torch' in sys.modules, 'fedbonsai' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", probe], text=True) == "False True\n"


def test_without_the_report_extra_a_run_works_and_one_line_says_what_to_install(command, tmp_path):
    out: Path = tmp_path / "made"
    done = command("compare", *SMALL, "--rounds", "1", "--out", str(out), machine=Machine(missing="tensorboard"))
    assert done.code == 0
    said = [line for line in [*done.out.splitlines(), *done.said] if "[report]" in line]
    assert said == ["no TensorBoard files were written; for TensorBoard and plots: pip install 'fedbonsai[report]'"]
    assert not (out / "fedavg" / "tensorboard").exists()
    assert set(contents(out / "fedavg")) == FILES


def test_explain_says_how_a_run_would_be_computed_and_trains_nothing(tmp_path):
    done = fedbonsai("run", *SMALL, "--cohort", "3", "--explain", cwd=tmp_path)
    assert (done.code, contents(tmp_path)) == (0, {})
    model, kernel, engine = done.out.splitlines()
    assert model == "model: 1,930 parameters, 8,720 FLOPs an example, 64 examples a step"
    assert kernel.startswith("kernel: loop (5.6e+05 FLOPs a step, cohort 3: ")
    assert engine.startswith("engine: local (")


def test_tune_times_every_way_and_writes_the_quickest_into_the_experiment(tmp_path):
    (tmp_path / "mine.toml").write_text('dataset = "digits"  # small\nmodel = "mlp"\nwidth = 0.1\ncohort = 4\n')
    done = fedbonsai("tune", "mine.toml", "--rounds", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    ways = [line.split()[:2] for line in done.out.splitlines()[1:5]]
    assert sorted(ways[:3]) == [["local", "loop"], ["local", "stack"], ["processes", "loop"]]
    assert "local, vmap: kernel=vmap cannot train this model: " in done.out
    text = (tmp_path / "mine.toml").read_text()
    engine, kernel = ways[0]
    assert text.endswith(f'# small\nmodel = "mlp"\nwidth = 0.1\ncohort = 4\nengine = "{engine}"\nkernel = "{kernel}"\n')
    ran = fedbonsai("run", "mine.toml", "--rounds", "1", "--out", "made", cwd=tmp_path)
    assert ran.code == 0, ran.err
    config = result(tmp_path / "made")["config"]
    assert (config["engine"], config["kernel"]) == (engine, kernel)


def test_tune_leaves_out_the_workers_where_one_process_is_quickest(tmp_path):
    text = 'dataset = "digits"\nmodel = "mlp"\nwidth = 0.1\ncohort = 4\nengine = "processes"\nworkers = 2  # mine\n'
    (tmp_path / "mine.toml").write_text(text)
    done = fedbonsai("tune", "mine.toml", "--rounds", "1", cwd=tmp_path)
    assert done.code == 0, done.err
    assert max(line.split()[:2] for line in done.out.splitlines()[1:4]) == ["processes", "loop"]
    written = (tmp_path / "mine.toml").read_text()
    assert ("workers" in written) == ('engine = "processes"' in written)
    assert fedbonsai("run", "mine.toml", "--rounds", "1", "--out", "made", cwd=tmp_path).code == 0


def test_tune_refuses_what_no_way_can_compute(tmp_path):
    asked = ("--method", "local-prune", "--set", "unit=neuron", "--set", "importance=gamma")
    done = fedbonsai("tune", *SMALL, *asked, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert "gamma" in done.err
    assert contents(tmp_path) == {}
