"""Loading data sets by name: what comes out, and one clear error for each bad input."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedbonsai.core.errors import ConfigError, DataError
from fedbonsai.data import DATASETS, SCHEMES, digits, files, images
from fedbonsai.data.dataset import Dataset
from fedbonsai.data.files import find_folder
from fedbonsai.data.info import COLUMN_DEFAULTS
from fedbonsai.data.load import load
from fedbonsai.learning.losses import LOSSES
from fedbonsai.learning.task import Pool
from fedbonsai.models import MODELS


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(pixels):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_images(folder, pixels, labels):
    """Write a train and a test part of equal content in the form of the shared data sets."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": one if isinstance(one, bytes) else picture(one), "path": None} for one in pixels]
    table = arrow.table({"image": rows, "label": arrow.array(labels, arrow.uint8())})
    for part in ("train", "test"):
        parquet.write_table(table, folder / f"{part}.parquet")


def grey(count, side=4):
    return np.arange(count * side * side, dtype=np.uint8).reshape(count, side, side)


def test_listing_needs_no_torch():
    code = "import sys, fedbonsai.data, fedbonsai.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_defaults_name_what_exists(info):
    assert info.loss in LOSSES
    assert info.defaults.model in MODELS
    assert info.defaults.partition in SCHEMES
    assert info.defaults.cohort <= info.defaults.clients <= info.train


def test_digits_are_complete_and_split():
    data = load("digits")
    assert (len(data.train), len(data.test)) == (DATASETS["digits"].train, DATASETS["digits"].test)
    assert data.train.inputs.dtype == torch.uint8
    assert data.input_shape == (1, 8, 8)
    shares = [np.bincount(pool.targets.numpy()) / len(pool) for pool in (data.train, data.test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.003
    inputs, targets = data.train.batch(torch.arange(len(data.train)))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert abs(float(inputs.mean())) < 0.01
    assert abs(float(inputs.std()) - 1) < 0.01
    assert np.array_equal(data.labels, data.train.targets)


def test_digits_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    data = load("digits")
    rows = torch.cat([data.train.inputs, data.test.inputs]).flatten(1)
    labels = torch.cat([data.train.targets, data.test.targets])
    ours = torch.cat([rows, labels[:, None]], dim=1).numpy()
    theirs = np.column_stack([original.data, original.target])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no archive", b"text"])
def test_damaged_package_is_one_error(monkeypatch, tmp_path, content):
    (tmp_path / "digits.npz").write_bytes(content)
    monkeypatch.setattr(digits, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match="install fedbonsai again"):
        load("digits")


def test_grey_images_keep_their_pixels(tmp_path):
    write_images(tmp_path / "mnist", grey(3), [7, 0, 9])
    data = load("mnist", tmp_path)
    assert data.train.inputs.dtype == torch.uint8
    assert np.array_equal(data.train.inputs[:, 0], grey(3))
    inputs, targets = data.train.batch(torch.tensor([2]))
    assert targets.tolist() == [9]
    moments = images.MOMENTS["mnist"]
    assert torch.allclose(inputs * moments.std[0] + moments.mean[0], torch.tensor(grey(3)[2:, None]).float(), atol=1e-4)
    assert data.labels.tolist() == [7, 0, 9]


def test_colours_become_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    write_images(tmp_path / "cifar10", pixels, [1, 2])
    data = load("cifar10", tmp_path)
    assert data.input_shape == (3, 4, 5)
    assert np.array_equal(data.test.inputs.permute(0, 2, 3, 1), pixels)


def test_the_second_time_nothing_is_decoded(monkeypatch, tmp_path):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    first = load("mnist", tmp_path)
    monkeypatch.setattr(images, "decode", None)
    again = load("mnist", tmp_path)
    assert torch.equal(first.train.inputs, again.train.inputs)
    again.train.inputs.zero_()
    assert torch.equal(first.train.inputs, load("mnist", tmp_path).train.inputs), "the cache was written to"


@pytest.mark.parametrize("damage", [lambda entry: entry[:-1] + b"\xff", lambda entry: entry[:50], lambda _: b""])
def test_a_damaged_cache_is_decoded_again(tmp_path, damage):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    first = load("mnist", tmp_path)
    entries = list((tmp_path / "cache" / "fedbonsai").iterdir())
    assert [entry.suffix for entry in entries] == [".npy"]
    pixels = first.train.inputs.clone()
    del first
    entries[0].write_bytes(damage(entries[0].read_bytes()))
    assert torch.equal(load("mnist", tmp_path).train.inputs, pixels)


def test_new_content_is_decoded_anew(tmp_path):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    load("mnist", tmp_path)
    write_images(tmp_path / "mnist", 255 - grey(3), [1, 2, 3])
    assert np.array_equal(load("mnist", tmp_path).train.inputs[:, 0], 255 - grey(3))


def test_a_cache_that_cannot_be_written_does_no_harm(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    assert len(load("mnist", tmp_path).train) == 3


def test_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match=r"did you mean 'cifar10'.*known: cifar10, digits"):
        load("cifar")


def test_directory_from_the_environment(monkeypatch, tmp_path):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    monkeypatch.setenv("FEDBONSAI_DATA", str(tmp_path))
    assert len(load("mnist").train) == 3


def test_no_directory_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDBONSAI_DATA", raising=False)
    monkeypatch.setattr(files, "_BESIDE_CHECKOUT", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no data directory was given; .*--data-dir or FEDBONSAI_DATA"):
        load("mnist")


def test_missing_folder_names_it(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path / 'mnist'} is not a folder"):
        load("mnist", tmp_path)


def test_missing_file_names_it(tmp_path):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    (tmp_path / "mnist" / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"test\.parquet must be a Parquet file"):
        load("mnist", tmp_path)


def test_corrupt_file_names_it(tmp_path):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    path = tmp_path / "mnist" / "train.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train\.parquet must be a Parquet file .*; fetch it again"):
        load("mnist", tmp_path)


def test_missing_column_names_it(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "mnist").mkdir()
    parquet.write_table(arrow.table({"image": [1]}), tmp_path / "mnist" / "train.parquet")
    with pytest.raises(DataError, match="with the columns label"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("bad", [b"no image", np.zeros((5, 5), np.uint8)])
def test_an_unfit_image_is_counted_out(tmp_path, bad):
    write_images(tmp_path / "mnist", [grey(1)[0], bad], [1, 2])
    with pytest.raises(
        DataError, match=r"train\.parquet must be whole PNG or JPEG files of one size; .*the first [12]"
    ):
        load("mnist", tmp_path)


@pytest.mark.parametrize("length", [0, 20, 40, 50])
def test_a_cut_image_is_counted_out(tmp_path, length):
    write_images(tmp_path / "mnist", [grey(1)[0], picture(grey(1)[0])[:length]], [1, 2])
    with pytest.raises(
        DataError, match=r"train\.parquet must be whole PNG or JPEG files of one size; .*the first [12]"
    ):
        load("mnist", tmp_path)


def test_a_broken_image_is_counted_out(tmp_path):
    broken = bytearray(picture(grey(1)[0]))
    broken[36] = 4  # the length of the pixels, so that the next part begins amid them
    write_images(tmp_path / "mnist", [grey(1)[0], bytes(broken)], [1, 2])
    with pytest.raises(DataError, match=r"broken PNG file .*the first 1 could be read"):
        load("mnist", tmp_path)


def test_a_file_without_rows_is_refused(tmp_path):
    write_images(tmp_path / "mnist", [], [])
    with pytest.raises(DataError, match="the first 0 could be read"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("sizes", [(3, 0), (0, 3)])
def test_both_parts_must_have_examples(sizes):
    train, test = (Pool(torch.zeros(size, 4), torch.zeros(size)) for size in sizes)
    with pytest.raises(DataError, match=f"needs training and test examples, got {sizes[0]} and {sizes[1]}"):
        Dataset("own", "mse", 1, (4,), train, test, COLUMN_DEFAULTS)


@pytest.mark.parametrize("labels", [[0, 10], [0, None]])
def test_labels_out_of_range_are_refused(tmp_path, labels):
    write_images(tmp_path / "mnist", grey(2), labels)
    with pytest.raises(DataError, match=r"labels of .*train\.parquet must be 0 to 9, got others"):
        load("mnist", tmp_path)


def test_both_parts_must_have_one_shape(tmp_path):
    write_images(tmp_path / "mnist", grey(2), [0, 1])
    write_images(tmp_path / "other", grey(2, side=5), [0, 1])
    (tmp_path / "other" / "test.parquet").rename(tmp_path / "mnist" / "test.parquet")
    with pytest.raises(DataError, match=r"must have one shape, \(1, 4, 4\), got \[\(1, 4, 4\), \(1, 5, 5\)\]"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("module", ["pyarrow.parquet", "PIL.Image"])
def test_missing_reader_names_the_extra(monkeypatch, tmp_path, module):
    write_images(tmp_path / "mnist", grey(3), [1, 2, 3])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs '{module}', .*pip install 'fedbonsai\[data\]'"):
        load("mnist", tmp_path)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_shared_images_are_as_described(name):
    try:
        find_folder(name)
    except DataError as error:
        pytest.skip(str(error))
    data, info = load(name), DATASETS[name]
    assert (len(data.train), len(data.test)) == (info.train, info.test)
    raw = data.train.inputs.numpy()
    assert np.allclose(raw.mean(axis=(0, 2, 3)), images.MOMENTS[name].mean, atol=0.1)
    assert np.allclose(raw.std(axis=(0, 2, 3)), images.MOMENTS[name].std, atol=0.1)
    assert len(np.unique(data.labels)) == info.classes
