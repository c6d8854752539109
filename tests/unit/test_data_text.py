"""Text as windows: they stay within their owner, and each target is the token that comes next."""

import numpy as np
import pytest
import torch

from fedbonsai.core.errors import DataError
from fedbonsai.data import DATASETS
from fedbonsai.data.files import find_folder
from fedbonsai.data.load import load
from fedbonsai.data.text import VOCABULARY, WINDOW, encode, windows


def write_plays(folder, roles, speeches):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    for part in ("train", "test"):
        parquet.write_table(arrow.table({"client_id": roles, "text": speeches}), folder / f"{part}.parquet")


def test_windows_stay_with_their_owner_and_share_one_token():
    cut, owners = windows({"a": np.arange(2 * WINDOW + 1, dtype=np.uint8), "b": np.full(WINDOW + 9, 200, np.uint8)})
    assert owners.tolist() == ["a", "a", "b"]
    assert cut[0].tolist() == list(range(WINDOW + 1))
    assert cut[1].tolist() == list(range(WINDOW, 2 * WINDOW + 1))
    assert set(cut[2].tolist()) == {200}


def test_an_owner_with_too_little_gets_no_window():
    _, owners = windows({"short": np.zeros(WINDOW, np.uint8), "long": np.zeros(WINDOW + 1, np.uint8)})
    assert owners.tolist() == ["long"]
    with pytest.raises(DataError, match=f"must have {WINDOW + 1} tokens"):
        windows({"short": np.zeros(WINDOW, np.uint8)})


def test_tokens_are_positions_in_the_vocabulary():
    assert encode(VOCABULARY).tolist() == list(range(DATASETS["shakespeare"].classes))
    assert encode("").tolist() == []


@pytest.mark.parametrize("text", ["naïve", "tab\t", "#"])
def test_a_character_outside_the_vocabulary_is_refused(text):
    with pytest.raises(DataError, match="text must be made of"):
        encode(text)


def test_speeches_of_a_role_are_joined_in_order(tmp_path):
    first, second, other = "A" * 30, "B" * 20, "C" * 45
    write_plays(tmp_path / "shakespeare", ["HAMLET", "GHOST", "HAMLET"], [first, other, second])
    data = load("shakespeare", tmp_path)
    assert data.natural.tolist() == ["HAMLET", "GHOST"]
    inputs, targets = data.train.batch(torch.tensor([0]))
    said = encode(f"{first}\n{second}")
    assert inputs[0].tolist() == said[:WINDOW].tolist()
    assert targets[0].tolist() == said[1 : WINDOW + 1].tolist()
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)


def test_inputs_and_targets_are_one_memory(tmp_path):
    write_plays(tmp_path / "shakespeare", ["HAMLET"], ["A" * 100])
    pool = load("shakespeare", tmp_path).train
    assert pool.inputs.dtype == torch.uint8
    assert pool.targets.data_ptr() == pool.inputs.data_ptr() + 1


@pytest.mark.data
def test_shared_plays_are_as_described():
    try:
        find_folder("shakespeare")
    except DataError as error:
        pytest.skip(str(error))
    data, info = load("shakespeare"), DATASETS["shakespeare"]
    assert (len(data.train), len(data.test)) == (info.train, info.test)
    assert int(data.train.targets.max()) == info.classes - 1
    assert len(np.unique(data.natural)) == 1200
