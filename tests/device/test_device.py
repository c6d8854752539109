"""Training on an accelerator: one that is pretended, which every machine has, and a GPU where there is one."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract.federation import examples, finished, make_bench, net, norm_net
from device.alike import runs
from device.pretended import build

import fedbonsai
from fedbonsai.core.errors import ConfigError
from fedbonsai.experiment.choice import engine_of
from fedbonsai.experiment.choice import make_bench as make_chosen
from fedbonsai.experiment.config import Experiment
from fedbonsai.learning.bench import Meter
from fedbonsai.learning.device import CPU, device_of, exactly
from fedbonsai.learning.objective import Objective
from fedbonsai.learning.task import Task
from fedbonsai.methods.fedavg import FedAvg

HERE = Path(__file__).parents[1]
COMPILER = shutil.which("c++")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, to pretend a device")
def test_every_run_comes_to_the_same_on_a_device_of_its_own_memory(tmp_path):
    made = build(tmp_path, COMPILER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-W", "ignore", "-m", "device.alike", str(made)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count(": alike") == sum(1 for _ in runs())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "must be one of cpu, cuda"),
        ("cuda:x", "must be one of cpu, cuda"),
        ("meta", "must be one of cpu, cuda"),
        ("cuda:99", "is not here"),
    ],
)
def test_a_device_that_is_not_here_is_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        device_of(name)


def test_a_run_says_that_its_device_is_not_here():
    assert device_of("cpu") == CPU
    task = Task(net, "cross_entropy", [examples(9, 0)], examples(9, 1))
    with pytest.raises(ConfigError, match="is not here"):
        fedbonsai.run(task, FedAvg(), rounds=1, cohort=1, device="cuda:99")


def test_workers_of_other_engines_do_not_share_a_device():
    with pytest.raises(ConfigError, match="needs engine=local"):
        Experiment(device="cuda", engine="processes")
    bench = make_bench()
    bench.device = torch.device("meta")  # one that is never computed on
    assert engine_of(Experiment(), bench).name == "local"
    assert "on meta, in one process" in engine_of(Experiment(), bench).why


def test_what_makes_a_gpu_exact_is_left_as_it_was_found():
    def state():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.deterministic,
        )

    before = state()
    with exactly("cpu"):
        assert state() == before
    with exactly("cuda:0"):
        assert state() == (True, "highest", True)
    assert state() == before


@needs_a_gpu
@pytest.mark.parametrize(("name", "method", "bench"), [*runs()], ids=lambda one: one if isinstance(one, str) else "")
def test_a_gpu_trains_what_the_cpu_trains(name, method, bench):
    near, far = bench(), replace(bench(), device=torch.device("cuda", 0), meter=Meter())
    with exactly("cuda"):
        ours, theirs, again = (finished(method, bench=one, rounds=1) for one in (near, far, far))
    assert ours.rows[0]["flops"] == theirs.rows[0]["flops"]
    for tensor, there, twice in zip(*(one.state.weights.values() for one in (ours, theirs, again)), strict=True):
        assert torch.equal(there, twice)
        if "Images" not in name and "fedpm" not in name:  # which draw at random on the device
            torch.testing.assert_close(tensor, there, rtol=1e-3, atol=1e-4)


@needs_a_gpu
def test_a_step_on_a_gpu_waits_for_nothing():
    bench = replace(make_bench(norm_net), device=torch.device("cuda", 0))
    finished(FedAvg(), bench=bench, rounds=1)
    batches = bench.near([torch.arange(8)] * 3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for positions in batches:
            bench.step(positions, lr=0.1, mask=None, objective=Objective())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_bench_of_an_experiment_is_where_the_experiment_says():
    task = make_bench().task
    assert make_chosen(Experiment(device="cpu"), task).device == CPU
