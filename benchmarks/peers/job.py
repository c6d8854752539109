"""What the engines share: the job that they are given, and how they are told to hold a round."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Job:
    """A job as its folder holds it."""

    network: str
    lr: float
    batch: int
    epochs: int
    dropout: bool
    seed: int
    cohorts: list[list[int]]  # the clients of each round
    clients: list[tuple[np.ndarray, np.ndarray]]
    weights: list[np.ndarray]  # to begin with


def read_job(folder):
    """The job in a folder."""
    folder = Path(folder)
    settings = json.loads((folder / "job.json").read_text("utf-8"))
    data, weights = np.load(folder / "data.npz"), np.load(folder / "weights.npz")
    cuts = settings.pop("cuts")
    pairs = zip(np.split(data["inputs"], cuts), np.split(data["targets"], cuts), strict=True)
    return Job(**settings, clients=list(pairs), weights=[weights[str(place)] for place in range(len(weights))])


def asked(weights, **facts):
    """Wait until a round is asked for; False at the end. Weights that are asked for are written on the way.

    Args:
        weights: Called without arguments, gives the arrays of the model as they now are.
        facts: What else to say when they are written.
    """
    for line in sys.stdin:
        word, _, path = line.strip().partition(" ")
        if word == "weights":
            np.savez(path, **{str(place): np.asarray(one) for place, one in enumerate(weights())})
            said(f"written {json.dumps(facts)}")
        else:
            return word == "round"
    return False


def said(word):
    """Tell the benchmark: ``ready`` for the first round, ``done`` with one, weights ``written``."""
    print(f"\n@@ {word}", flush=True)
