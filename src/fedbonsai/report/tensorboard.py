"""The curves of a run as TensorBoard event files; needs the ``[report]`` extra, and does without it."""

from importlib.util import find_spec
from pathlib import Path

from fedbonsai.report.runs import KINDS, Result, checked, curve, layer_densities


def missing_extra() -> str | None:
    """Return the one line that says what to install for event files; None when nothing is missing."""
    if find_spec("tensorboard") is not None:
        return None
    return "no TensorBoard files were written; for TensorBoard and plots: pip install 'fedbonsai[report]'"


def write_events(result: Result, directory: Path) -> bool:
    """Write the curves of one run for TensorBoard, in place of the event files of an earlier call.

    The step is the training round; for ``by_bytes/...`` it is the bytes moved so far, both directions.

    Args:
        result: Contents of a ``result.json``.
        directory: Where the event file goes; made when it does not exist.

    Returns:
        Whether it was written: False when TensorBoard is not installed.

    Raises:
        ConfigError: The result is of another schema.
    """
    checked([result])
    if missing_extra():
        return False
    from tensorboard.summary import Writer

    for earlier in directory.glob("events.out.tfevents.*"):
        earlier.unlink()
    writer = Writer(str(directory))
    for tag, step, value in _scalars(result):
        writer.add_scalar(tag, value, step)
    writer.close()
    return True


def _scalars(result: Result) -> list[tuple[str, int, float]]:
    """Tag, step and value of everything that is shown."""
    scalars = [
        (key, int(point.x), point.y)
        for key in ("test_metric", "test_loss", "train_loss", "density", "bytes_down", "bytes_up")
        for point in curve(result, key)
    ]
    scalars += [("by_bytes/test_metric", int(point.x), point.y) for point in curve(result, "test_metric", "bytes")]
    scalars += [
        (f"bytes/{kind}", row["round"], row["bytes_by_kind"][kind])
        for kind in KINDS
        for row in result["rounds"]
        if "bytes_by_kind" in row
    ]
    last = result["rounds"][-1]["round"] if result["rounds"] else 0
    scalars += [(f"layer_density/{name}", last, density) for name, density in layer_densities(result).items()]
    return scalars
