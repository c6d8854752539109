"""Data sets that Hugging Face ``datasets`` opens: images, text and columns of a local folder."""

import sys

import numpy as np
import pytest
import torch

from fedbonsai.core.errors import ConfigError, DataError
from fedbonsai.data.load import load

hub = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)


def written(folder, parts=("train", "test"), **columns):
    for part in parts:
        hub.Dataset.from_dict(columns).to_parquet(folder / f"{part}.parquet")
    return str(folder)


def saved(folder, features=None, **columns):
    part = hub.Dataset.from_dict(columns, features=features)
    hub.DatasetDict({"train": part, "test": part}).save_to_disk(folder)
    return str(folder)


def test_a_folder_of_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "test"):
        for label, value in (("cat", 10), ("dog", 250)):
            (tmp_path / "set" / part / label).mkdir(parents=True)
            pixels = np.full((4, 5, 3), value, np.uint8)
            image.fromarray(pixels).save(tmp_path / "set" / part / label / "1.png")
    data = load(str(tmp_path / "set"))
    assert (data.loss, data.classes, data.input_shape, data.defaults.model) == ("cross_entropy", 2, (3, 4, 5), "cnn")
    assert data.train.inputs.float().mean(dim=(1, 2, 3)).tolist() == [10, 250]
    assert data.labels.tolist() == [0, 1]
    prepared, _ = data.test.batch(torch.tensor([0]))
    assert torch.allclose(prepared, torch.tensor(10 / 127.5 - 1))


def test_saved_images_with_writers(tmp_path):
    features = hub.Features(
        image=hub.Image(), character=hub.ClassLabel(names=["a", "b"]), writer_id=hub.Value("string")
    )
    pixels = [np.full((4, 4), value, np.uint8) for value in (0, 128)]
    data = load("hf:" + saved(tmp_path / "set", features, image=pixels, character=[1, 0], writer_id=["x", "y"]))
    assert data.input_shape == (1, 4, 4)
    assert data.labels.tolist() == [1, 0]
    assert data.natural.tolist() == ["x", "y"]


def test_text_is_bytes_by_owner(tmp_path):
    data = load(saved(tmp_path / "set", text=["é" * 30, "b" * 50, None], client_id=[7, 8, 8]))
    assert (data.loss, data.classes, data.input_shape, data.labels) == ("next_token", 256, (40,), None)
    assert data.natural.tolist() == ["7", "8"]
    inputs, targets = data.train.batch(torch.tensor([0]))
    assert inputs[0, :2].tolist() == list("é".encode())
    assert torch.equal(inputs[0, 1:], targets[0, :-1])


def test_text_without_owners_is_one_stream(tmp_path):
    data = load(saved(tmp_path / "set", text=["a" * 30, "b" * 30]))
    assert data.natural is None
    assert len(data.train) == 1


def test_columns_are_standardised_by_the_training_part(tmp_path):
    data = load(written(tmp_path / "set", age=[1, 3], flat=[5.0, 5.0], name=["x", "y"], label=[0, 2]))
    assert (data.loss, data.classes, data.input_shape, data.defaults.model) == ("cross_entropy", 3, (2,), "mlp")
    inputs, targets = data.train.batch(torch.tensor([0, 1]))
    assert inputs.tolist() == [[-1, 0], [1, 0]]
    assert targets.tolist() == [0, 2]


def test_fractions_make_a_regression(tmp_path):
    columns = {"age": [1, 3], "hospital": ["a", "b"], "label": [0.5, 2.5]}
    data = load(written(tmp_path / "set", ("train", "validation"), **columns))
    assert (data.loss, data.classes, data.labels) == ("mse", 1, None)
    assert data.train.targets.tolist() == [0.5, 2.5]
    assert data.natural.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"age": [1, 2], "target": [0, 1]}, "needs a column 'label' or 'text', got age, target"),
        ({"age": [1, None], "label": [0, 1]}, "gaps in age"),
        ({"name": ["x", "y"], "label": [0, 1]}, "finite numbers, got none"),
        ({"age": [1, 2], "label": ["cat", "dog"]}, "labels of .* must be class numbers from 0"),
        ({"age": [1, 2], "label": [-1, -1]}, "labels of .* must be class numbers from 0"),
        ({"age": [1, 2], "label": [0.5, None]}, "labels of .* must be class numbers from 0"),
        ({"age": [1, 2], "label": [0.5, float("nan")]}, "labels of .* must be class numbers from 0"),
    ],
)
def test_unfit_columns(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        load(written(tmp_path / "set", **columns))


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(DataError, match="needs the splits 'train' and 'test', got train"):
        load(written(tmp_path / "set", ("train",), age=[1], label=[0]))


def test_an_empty_part_is_refused(tmp_path):
    train = hub.Dataset.from_dict({"age": [1, 2], "label": [0, 1]})
    hub.DatasetDict({"train": train, "test": train.select([])}).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match=r"must be a folder or a name on the Hub .*can open"):
        load(str(tmp_path / "set"))


def test_parts_with_other_columns_are_one_error(tmp_path):
    written(tmp_path / "set", ("train",), age=[1], label=[0])
    folder = written(tmp_path / "set", ("test",), height=[1], label=[0])
    with pytest.raises(DataError, match=r"must be a folder or a name on the Hub .*can open"):
        load(folder)


def test_a_damaged_file_is_one_error(tmp_path):
    folder = written(tmp_path / "set", age=[1], label=[0])
    (tmp_path / "set" / "train.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="must be a folder or a name on the Hub"):
        load(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="must be a folder or a name on the Hub"):
        load(str(tmp_path / "nowhere"))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs 'datasets', .*pip install 'fedbonsai\[data\]'"):
        load("hf:anything")
