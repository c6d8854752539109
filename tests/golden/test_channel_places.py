"""Where the channels of every family and every operator sit, what makes and reads them, and why others stay.

`test_sparsity_channels` says by numbers that the extraction is right; what is written down here shows, line by line,
when anything about it changes. After a change that is meant: ``cd tests && python -m golden.test_channel_places``, and
read what is new.
"""

import itertools
import warnings
from pathlib import Path

import pytest
import torch
from unit.channel_families import FAMILIES
from unit.channel_operators import OPERATORS, model_of

from fedbonsai.core.errors import ConfigError
from fedbonsai.sparsity.channels import extract, trace
from fedbonsai.sparsity.channels.run import observe

FILE = Path(__file__).parent / "channel_places.txt"
NAMES = [f"family: {name}" for name in FAMILIES if not name.startswith("resnet")] + list(OPERATORS)
STANDING = (
    "first.weight[1]: in; .; layer 'first' (Linear): linear with what is no channel of a layer, such as an input",
    "last.weight[0]: out; .; an output of the model",
    "last.bias[0]: bias; .; an output of the model",
)
"""What is so in all models of one operator, and not written down."""


def told(name):
    """All that is known of the channels of a model, one fact a line."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a projection's speed
        torch.manual_seed(0)
        kind, _, family = name.partition("family: ")
        model, example, *options = model_of(name) if kind else FAMILIES[family]()
        try:
            groups = trace(model, example, **(options[0] if options else {}))
        except ConfigError as error:
            return [f"refused: {error}"]
        lines = [f"{unit}: {count} units" for unit, count in groups.units.items()]
        for tensor, axes in groups.axes.items():
            for dim, labels in enumerate(axes):
                said = [", ".join(sorted(groups.roles.get((tensor, dim), ()))) or "-", runs(labels)]
                lines.append(f"{tensor}[{dim}]: " + "; ".join([*said, groups.fixed.get(f"{tensor}[{dim}]", "free")]))
        lines += [
            f"{one.path}.{one.name}"
            + (f"[{one.index}]" if one.index is not None else "")
            + f" follows {runs(one.labels)}"
            for one in groups.attributes
        ]
        lines += [f"a norm spans {runs(groups.spanned)}"] * bool(len(groups.spanned))
        reads = observe(model, groups.inputs, evenly=groups.evenly, probing=True).reads
        lines += sorted({f"{one.weight}[{one.dim}] reads, and {one.bias} takes constants over" for one in reads})
        lines += [half(model, groups)] if groups.units else []
        return [one for one in lines if not (kind and one in STANDING)]


def half(model, groups):
    """What comes of the first half of all units: a model that computes what the whole does, or the reason why not."""
    try:
        extract(model, groups, width=0.5)
    except ConfigError as error:
        return f"half: {error}"
    return "half: works"


def runs(labels):
    """Numbers of units as runs, ``.`` where an index is no channel."""
    if labels is None:
        return "."
    pairs = enumerate(labels.tolist())
    found = [
        [one for _, one in run] for _, run in itertools.groupby(pairs, lambda pair: pair[1] - pair[0] * (pair[1] >= 0))
    ]
    return " ".join(
        f".x{len(run)}" if run[0] < 0 else f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found
    )


def known():
    """The lines of the file, by model."""
    found = {}
    for line in FILE.read_text().splitlines():
        if line.startswith("== "):
            found[line[3:]] = []
        elif line:
            list(found.values())[-1].append(line)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_channels_sit_where_they_did(name):
    assert told(name) == known()[name]


def test_what_is_written_down_is_there():
    assert set(known()) == set(NAMES)


if __name__ == "__main__":
    FILE.write_text("\n\n".join("\n".join([f"== {name}", *told(name)]) for name in NAMES) + "\n")
