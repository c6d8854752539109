"""Made-up results that look like real ones: the shape of the contract, sums that add up, no two rounds alike."""

import math
import random
from typing import Any

LAYERS = {
    "conv1.weight": (32, 1, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (64, 32, 3, 3),
    "conv2.bias": (64,),
    "dense.weight": (128, 3136),
    "dense.bias": (128,),
    "out.weight": (10, 128),
    "out.bias": (10,),
}
PARAMETERS = {name: math.prod(shape) for name, shape in LAYERS.items()}
WEIGHTS = sum(PARAMETERS[name] for name, shape in LAYERS.items() if len(shape) > 1)


def make_result(
    method: str = "fedavg",
    *,
    settings: dict[str, Any] | None = None,
    density: float = 1.0,
    best: float = 0.92,
    rounds: int = 20,
    stages: tuple[str, ...] = (),
    evaluate_every: int = 1,
) -> dict[str, Any]:
    """A run of 10 clients a round whose density falls to ``density`` within the first half, ``stages`` before it."""
    draw = random.Random(f"{method}{settings}{density}{rounds}")
    rows = [_row(draw, 0, density=1.0, stage=stage, bytes_down=1200, bytes_up=9_000_000) for stage in stages]
    for number in range(1, rounds + 1):
        progress = min(1.0, 2 * number / rounds)
        now = density + (1 - density) * (1 - progress) ** 3
        values = int(10 * 4 * WEIGHTS * now)
        row = _row(draw, number, density=now, stage="train", bytes_down=values, bytes_up=values)
        row["train_loss"] = (3.3 - best) * math.exp(-3 * number / rounds) + 0.1 + 0.02 * draw.random()
        if number % evaluate_every == 0 or number == rounds:
            row["test_metric"] = best * (1 - 0.8 * math.exp(-5 * number / rounds)) - 0.01 * draw.random()
            row["test_loss"] = row["train_loss"] + 0.05
            row["validation_metric"] = row["test_metric"] - 0.01
        rows.append(row)
    return {
        "schema": 1,
        "name": f"digits-{method}-{draw.randrange(16**6):06x}",
        "config": {
            "dataset": "digits",
            "method": method,
            "method_settings": settings or {},
            "rounds": rounds,
            "clients": 20,
            "cohort": 10,
            "seed": 1,
        },
        "environment": {
            "python": "3.11.2",
            "torch": "2.13.0",
            "fedbonsai": "0.1.0",
            "cpu": "Example CPU 2.4 GHz",
            "threads": 2,
        },
        "rounds": rows,
        "layers": [_layer(name, density) for name in LAYERS],
        "final": _final(rows, rounds),
    }


def three_runs(rounds: int = 20) -> list[dict[str, Any]]:
    """Dense training and two pruned runs, one with a stage of its own and with few evaluations."""
    return [
        make_result(rounds=rounds),
        make_result("local-prune", settings={"density": 0.2}, density=0.2, best=0.914, rounds=rounds),
        make_result(
            "feddst",
            settings={"density": 0.1, "score": "magnitude"},
            density=0.1,
            best=0.883,
            rounds=rounds,
            stages=("score", "candidates"),
            evaluate_every=2,
        ),
    ]


def _row(
    draw: random.Random, number: int, *, density: float, stage: str, bytes_down: int, bytes_up: int
) -> dict[str, Any]:
    dropped = int(draw.random() < 0.15)
    supports = 0 if density == 1.0 else 10 * WEIGHTS // 8
    return {
        "round": number,
        "stage": stage,
        "train_loss": None,
        "test_loss": None,
        "test_metric": None,
        "validation_metric": None,
        "density": density,
        "bytes_down": bytes_down + supports + 3000,
        "bytes_up": bytes_up + 3000,
        "bytes_by_kind": {"values": bytes_down + bytes_up, "supports": supports, "overhead": 6000},
        "seconds": 2.0 + draw.random(),
        "clients": 10 - dropped,
        "dropped": dropped,
    }


def _layer(name: str, density: float) -> dict[str, Any]:
    """The large layer is pruned most, the output and the biases not at all."""
    share = {"conv1.weight": min(1.0, 4 * density), "conv2.weight": min(1.0, 2 * density), "dense.weight": density}
    kept = round(PARAMETERS[name] * share.get(name, 1.0))
    return {"name": name, "shape": list(LAYERS[name]), "parameters": PARAMETERS[name], "kept": kept}


def _final(rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    test, density = rows[-1]["test_metric"], rows[-1]["density"]
    kept = sum(_layer(name, density)["kept"] for name in LAYERS)
    return {
        "train_error": 1 - test - 0.021,
        "test_error": 1 - test,
        "generalization_gap": 0.021,
        "test_metric": test,
        "metric": "accuracy",
        "scope": "global",
        "parameters": sum(PARAMETERS.values()),
        "parameters_kept": kept,
        "density": density,
        "bytes_down": sum(row["bytes_down"] for row in rows),
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_dense": rounds * 10 * 2 * 4 * sum(PARAMETERS.values()),
        "seconds": sum(row["seconds"] for row in rows),
        "train_flops": 48_000_000_000 * rounds,
        "peak_memory_bytes": 312_000_000,
    }
