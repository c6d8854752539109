"""fedbonsai itself, as ``fedbonsai.run`` holds its rounds: every message is encoded, checked and decoded.

python ours.py FOLDER [SETTING=VALUE ...]
"""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from job import Job, asked, read_job, said
from networks import set_weights
from torch import nn

from fedbonsai.experiment.build import OWN, make_method, resolve
from fedbonsai.experiment.execute import Job as Prepared
from fedbonsai.experiment.execute import execute
from fedbonsai.experiment.settings import make_experiment, parse_pairs
from fedbonsai.federated.ledger import Row
from fedbonsai.learning.task import Pool, Task
from fedbonsai.models.build import build
from fedbonsai.models.layers import Conv2d, MaxPool2d


def simple_cnn(dropout: bool) -> nn.Module:
    """simple_cnn of layers of ours."""
    first = [Conv2d(3, 32, 3), nn.ReLU(), Conv2d(32, 64, 3), nn.ReLU(), MaxPool2d(2)]
    drops = [nn.Dropout(0.25), nn.Dropout(0.5)] if dropout else [nn.Identity(), nn.Identity()]
    hidden = [nn.Flatten(), nn.Linear(12544, 128), nn.ReLU()]
    return nn.Sequential(*first, drops[0], *hidden, drops[1], nn.Linear(128, 10))


def cifar_cnn() -> nn.Module:
    """Convolutions 5x5 of 32 and 64, dense 128, of layers of ours."""
    first = [Conv2d(3, 32, 5, padding=2), nn.ReLU(), MaxPool2d(2)]
    second = [Conv2d(32, 64, 5, padding=2), nn.ReLU(), MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4096, 128), nn.ReLU(), nn.Linear(128, 10))


def mlp() -> nn.Module:
    """One hidden layer of 128."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def model_of(job: Job) -> nn.Module:
    """The job's network, as ours has it, with the weights that all begin with."""
    images = (3, 32, 32)
    model = {
        "lenet": lambda: build("lenet5", input_shape=images, classes=10),
        "cnn": lambda: simple_cnn(job.dropout),
        "cifar": cifar_cnn,
        "mlp": mlp,
        "leaf": lambda: build("leaf_cnn", input_shape=(1, 28, 28), classes=62),
        "lstm": lambda: build("lstm", input_shape=(40,), classes=80),
        "resnet": lambda: build("resnet18", input_shape=images, classes=10, width=0.5),
    }[job.network]()
    set_weights(model, job.weights)
    return model


def task_of(job: Job) -> Task:
    """What is learned; all examples of the clients, and no test set to speak of."""
    inputs, targets = (torch.cat([torch.from_numpy(one) for one in side]) for side in zip(*job.clients, strict=True))
    sizes = [len(own) for _, own in job.clients]
    return Task(
        model=lambda: model_of(job),
        loss="next_token" if job.network == "lstm" else "cross_entropy",
        clients=Pool(inputs, targets),
        test=Pool(inputs[:10], targets[:10]),
        positions=torch.arange(len(inputs)).split(sizes),
    )


def job_of(job: Job, settings: dict[str, str]) -> Prepared:
    """The job with some further settings, as `fedbonsai.run` makes it."""
    base = {
        "dataset": OWN,
        "clients": len(job.clients),
        "cohort": len(job.cohorts[0]),
        "rounds": len(job.cohorts),
        "lr": job.lr,
        "batch_size": job.batch,
        "epochs": job.epochs,
        "seed": job.seed,
        "validation": 0.0,
        "evaluate_every": len(job.cohorts),
    }
    experiment = resolve(make_experiment(base, settings))
    return Prepared(experiment, task_of(job), make_method(experiment))


def main() -> None:
    """Hold the rounds that are asked for; the first begins with all that comes before it."""
    job = read_job(sys.argv[1])
    held = 0

    def wait(row: Row) -> None:
        nonlocal held
        if row["stage"] == "train":
            held += 1
            said("done")
            if held < len(job.cohorts) and not asked(list):
                sys.exit()

    said("ready")
    if asked(list):
        result = execute(job_of(job, parse_pairs(sys.argv[2:])), observer=wait)
        config = result.record["config"]
        names = [name for name, _ in result.task.model().named_parameters()]
        chosen = {name: config.get(name) for name in ("engine", "kernel")}
        asked(lambda: [result.tensors[name] for name in names], **chosen)


if __name__ == "__main__":
    main()
