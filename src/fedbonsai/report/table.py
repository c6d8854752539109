"""The columns that every comparison shows, for the terminal and the page alike."""

from collections.abc import Sequence

from fedbonsai.report import formats
from fedbonsai.report.runs import Result, labels, metric_name


def comparison(results: Sequence[Result]) -> list[list[str]]:
    """Return the comparison as text: one header, then one row a run in the order given.

    Errors are lower-is-better and the gap is test error minus training error. Bytes are what was encoded, summed over
    clients; the ratio is to what dense fp32 FedAvg would have moved with the same cohorts.

    Args:
        results: Contents of ``result.json`` files.
    """
    header = [
        "run",
        f"test {metric_name(results)}",
        "training error",
        "test error",
        "gap",
        "parameters kept",
        "bytes down",
        "bytes up",
        "ratio to dense",
        "seconds",
    ]
    return [header, *(_row(name, result) for name, result in zip(labels(results), results, strict=True))]


def _row(name: str, result: Result) -> list[str]:
    final = result["final"]
    errors = (final[key] for key in ("test_metric", "train_error", "test_error", "generalization_gap"))
    kept, parameters = final["parameters_kept"], final["parameters"]
    return [
        name,
        *(formats.metric(value, final["metric"]) for value in errors),
        f"{kept:,} ({formats.percent(kept / parameters if parameters else None)})",
        formats.size(final["bytes_down"]),
        formats.size(final["bytes_up"]),
        formats.ratio(final["bytes_down"] + final["bytes_up"], final["bytes_dense"]),
        f"{final['seconds']:.1f}",
    ]
