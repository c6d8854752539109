"""Runs on the CPU and on the pretended device, to be held against each other; a process of its own, as it stays."""

import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from contract.cases import CASES
from contract.federation import finished, make_bench, net_of
from device.pretended import load
from torch import Tensor, nn

from fedbonsai.federated.checkpoint import Checkpoint
from fedbonsai.learning.bench import Bench, Meter
from fedbonsai.methods import method_class

MEASURED = {"seconds", "seconds_by_client"}
OWN_WAYS = ("Images", "Sequences")
"""Models of layers that torch computes in another way on devices that are not the CPU, to other last bits."""


class Images(nn.Sequential):
    """Everything that models here are made of and the small net of the contract is not."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 2, 3)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


class Sequences(nn.Module):
    """A recurrent layer: the plain one, as the cells of others are kernels that each device has of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(2, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found, _ = self.rnn(inputs.reshape(len(inputs), 3, 2))
        return self.head(found[:, -1])


def runs() -> Iterator[tuple[str, object, Callable[[], Bench]]]:
    """Every method as the contract has it, then models and kernels."""
    for name, cases in CASES.items():
        for settings in cases:
            method = method_class(name)(**settings)
            holdout = 0.2 if method.traits.personal else 0.0
            yield (
                f"{name} {settings}",
                method,
                lambda method=method, holdout=holdout: make_bench(net_of(method), holdout=holdout),
            )
    fedavg, sub = method_class("fedavg")(), method_class("heterofl")()
    for model in (Images, Sequences):
        for method in (fedavg, sub):
            yield f"{method.name} {model.__name__}", method, lambda model=model: make_bench(model)
    for options in ({"optimizer": "adam", "lr": 0.01}, {"momentum": 0.9, "clip": 0.5, "weight_decay": 0.01}):
        yield f"fedavg {options}", fedavg, lambda options=options: make_bench(**options)
    for kernel in ("stack", "vmap"):
        yield f"fedavg {kernel}", fedavg, lambda kernel=kernel: replace(make_bench(wide), kernel=kernel)


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def differs(one: Checkpoint, two: Checkpoint, apart: float = 0.0) -> str:
    """What two runs do not have in common; empty if all is the same, or weights are no farther apart than they may."""
    for name, tensor in one.state.weights.items():
        found = float((tensor - two.state.weights[name]).abs().max())
        if not found <= apart:
            return f"{name} is {found:.3g} apart"
    if one.state.supports != two.state.supports:
        return "supports"
    for ours, theirs in zip(one.rows, two.rows, strict=True):
        same = ("flops", "work_by_client", "density") if apart else ours.keys() - MEASURED
        told = [f"{name}: {ours[name]} and {theirs[name]}" for name in sorted(same) if theirs[name] != ours[name]]
        if told:
            return ", ".join(told)
    return ""


def main(made: Path) -> int:
    torch.set_num_threads(1)
    device, failed = load(made), 0
    for name, method, bench in runs():
        try:
            there = replace(bench(), device=device, meter=Meter())
            far = finished(method, bench=there)
            one_place = {there.flat.device, there.task.pool.inputs.device, there.task.test.targets.device}
            problem = (
                f"it is on {one_place}"
                if one_place != {device}
                else differs(finished(method, bench=bench()), far, 1e-6 if name.endswith(OWN_WAYS) else 0.0)
            )
        except Exception:  # noqa: BLE001  all are to be told
            problem = traceback.format_exc(limit=-3)
        failed += bool(problem)
        sys.stdout.write(f"{name}: {problem or 'alike'}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
