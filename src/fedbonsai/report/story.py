"""What came out, in one plain sentence made of the numbers."""

from collections.abc import Sequence

from fedbonsai.report import formats
from fedbonsai.report.runs import Result, dense_reference, is_training, labels


def story(results: Sequence[Result]) -> str:
    """Say what the run did, or the one of several that scored highest beside the dense reference."""
    reference = dense_reference(results)
    named = list(zip(labels(results), results, strict=True))
    rivals = [(name, result) for name, result in named if result is not reference]
    if not rivals:
        rivals, reference = named, None
    name, best = max(rivals, key=lambda rival: _score(rival[1]))
    opening = formats.capital(name)
    if len(rivals) > 1:
        against = " held against dense training" if reference else ""
        opening = f"Of {len(rivals)} runs{against}, {name} scored highest: it"
    final = best["final"]
    moved = formats.ratio(final["bytes_down"] + final["bytes_up"], final["bytes_dense"])
    return (
        f"{opening} kept {formats.percent(final['density'])} of the weights, moved {moved} the bytes of "
        f"dense training and {_ending(best, reference)}."
    )


def circumstances(results: Sequence[Result]) -> str:
    """The data, the length and the losses of the runs in one line."""
    data = sorted({str(result["config"].get("dataset") or "own data") for result in results})
    rounds = sorted({sum(map(is_training, result["rounds"])) for result in results})
    cohorts = [row["clients"] for result in results for row in result["rounds"] if is_training(row)]
    dropped = sum(row["dropped"] for result in results for row in result["rounds"])
    parts = [", ".join(data), f"{' or '.join(map(str, rounds))} training rounds"]
    if cohorts:
        parts.append(f"{_span(min(cohorts), max(cohorts))} clients a round")
    if dropped:
        parts.append(f"{dropped} client answers lost on the way")
    if any(result["final"].get("scope") == "personal" for result in results):
        parts.append("personal models are tested on the held-out data of their own clients")
    return " · ".join(parts)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _score(result: Result) -> float:
    value = result["final"]["test_metric"]
    return float(value) if formats.finite(value) else -float("inf")


def _ending(result: Result, reference: Result | None) -> str:
    value, metric = result["final"]["test_metric"], result["final"]["metric"]
    if not formats.finite(value):
        return f"diverged: its test {metric} is not a number"
    if reference is None or not formats.finite(reference["final"]["test_metric"]):
        return f"ended at {formats.metric(value, metric)} test {metric}"
    difference = value - reference["final"]["test_metric"]
    distance = _distance(difference, metric)
    if distance == _distance(0.0, metric):
        return "ended level with it"
    return f"ended {distance} {'above' if difference > 0 else 'below'} it"


def _distance(difference: float, metric: str) -> str:
    return f"{abs(100 * difference):.1f} points" if metric == "accuracy" else f"{abs(difference):.3g}"
