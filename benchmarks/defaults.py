"""The short search behind the defaults of the data sets: dense FedAvg at a few learning rates, one seed.

    .venv/bin/python benchmarks/defaults.py [digits mnist fashion_mnist cifar10 shakespeare] [--write]

``--write`` puts the table into docs/benchmarks.md.
"""

import argparse

from tables import Table, put, table_with_machine

from fedbonsai.experiment.build import make_method, make_task, resolve
from fedbonsai.experiment.execute import Job, execute
from fedbonsai.experiment.settings import make_experiment

TRIED = {
    "digits": (20, (0.03, 0.1, 0.3)),
    "mnist": (12, (0.05, 0.1)),
    "fashion_mnist": (30, (0.03, 0.1, 0.2, 0.3)),
    "cifar10": (20, (0.02, 0.05, 0.1, 0.2)),
    "shakespeare": (12, (0.5, 1.0, 2.0, 4.0, 8.0)),
}
"""Rounds and learning rates by data set."""


def search(names: list[str]) -> Table:
    """Final test accuracy of FedAvg at every learning rate; everything else as the data set suggests."""
    rows = [["data set", "model", "rounds", "accuracy at each learning rate", "default"]]
    for name in names:
        rounds, rates = TRIED[name]
        found = []
        for lr in rates:
            experiment = resolve(
                make_experiment({"dataset": name, "rounds": rounds, "evaluate_every": rounds}, {"lr": lr})
            )
            final = execute(Job(experiment, make_task(experiment), make_method(experiment))).final
            found.append(f"{lr:g}: {final['test_metric']:.3f}")
        default = resolve(make_experiment({"dataset": name}, {}))
        rows.append([name, str(default.model), str(rounds), ", ".join(found), f"{default.lr:g}"])
    return rows


def main() -> None:
    """Search for the data sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TRIED), choices=list(TRIED))
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    text = table_with_machine(search(options.names), (0,))
    print(text)
    if options.write:
        put("defaults", text)


if __name__ == "__main__":
    main()
