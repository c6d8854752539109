"""Event files hold the curves of the page, and nothing breaks without TensorBoard."""

import pytest
from golden.results import make_result, three_runs

from fedbonsai.core.errors import ConfigError
from fedbonsai.report import tensorboard
from fedbonsai.report.runs import curve


def read(directory):
    """All scalars of an event directory: steps and values by tag."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    return {tag: [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors(tag)] for tag in tags}


def test_the_events_are_the_curves(tmp_path):
    result = three_runs()[2]
    assert tensorboard.write_events(result, tmp_path / "tensorboard")
    events = read(tmp_path / "tensorboard")
    for tag, against in (("test_metric", "rounds"), ("by_bytes/test_metric", "bytes")):
        points = curve(result, "test_metric", against)
        assert events[tag] == [(point.x, pytest.approx(point.y)) for point in points]
    assert len(events["density"]) == 20
    assert len(events["bytes/supports"]) == 22
    assert events["layer_density/dense.weight"] == [(20, pytest.approx(0.1, abs=1e-4))]


def test_a_second_call_replaces_the_first(tmp_path):
    pytest.importorskip("tensorboard")
    tensorboard.write_events(make_result(rounds=5), tmp_path)
    tensorboard.write_events(make_result(rounds=3), tmp_path)
    assert len(read(tmp_path)["test_metric"]) == 3


def test_without_tensorboard_it_says_what_to_install_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    assert not tensorboard.write_events(make_result(), tmp_path / "tensorboard")
    assert not (tmp_path / "tensorboard").exists()
    line = tensorboard.missing_extra()
    assert "pip install 'fedbonsai[report]'" in line
    assert "\n" not in line


def test_with_tensorboard_nothing_is_missing():
    pytest.importorskip("tensorboard")
    assert tensorboard.missing_extra() is None


def test_a_result_of_another_schema_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="schema 1, got 7"):
        tensorboard.write_events({"schema": 7}, tmp_path)
