"""Any data set that Hugging Face ``datasets`` can open, by its columns.

It needs a split ``train`` and a split ``test`` (or ``validation``), and columns of one kind:

* an image and a label: classification of images;
* a column ``text``: prediction of its next byte;
* numbers and a label: classification, or regression where the label is a fraction.

The label is the column ``label``, else the first that has class names. The client that a row
belongs to stands in the first column of `fedbonsai.data.table.ID_COLUMNS` that is there.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedbonsai.core.errors import DataError
from fedbonsai.data.dataset import Dataset, Standardise
from fedbonsai.data.images import decode
from fedbonsai.data.info import COLUMN_DEFAULTS, IMAGE_DEFAULTS, TEXT_DEFAULTS, Defaults
from fedbonsai.data.table import Read, Table, open_table
from fedbonsai.data.text import WINDOW, as_pool, join, windows
from fedbonsai.learning.task import Pool

Inputs = tuple[Tensor, Tensor, Standardise]
"""Raw inputs of the training and the test part, and what prepares both."""


def load_hub(name: str) -> Dataset:
    """Load a local folder or a data set of the Hugging Face Hub.

    Args:
        name: A path, or a name on the Hub; ``hf:`` may stand before it.

    Raises:
        ConfigError: ``datasets`` is not installed.
        DataError: It cannot be opened, or its splits or columns do not fit.
    """
    table = open_table(name.removeprefix("hf:"))
    if table.image is not None:
        return _labelled(table, _images(table, table.image), IMAGE_DEFAULTS)
    if "text" in table.kinds:
        return _text(table)
    return _labelled(table, _numbers(table), COLUMN_DEFAULTS)


def _images(table: Table, column: str) -> Inputs:
    def pixels(read: Read) -> Tensor:
        # A folder of pictures is read as paths, everything else as bytes.
        files = [one["bytes"] or Path(one["path"]).read_bytes() for one in read(column)]
        return torch.from_numpy(np.ascontiguousarray(decode(files, table.name)))

    train, test = pixels(table.train), pixels(table.test)
    half = (127.5,) * train.shape[1]
    return train, test, Standardise(half, half)


def _numbers(table: Table) -> Inputs:
    columns = table.numbers

    def matrix(read: Read) -> Tensor:
        values = np.array([read(column) for column in columns], dtype=np.float32)
        gaps = [name for name, row in zip(columns, values, strict=True) if not np.isfinite(row).all()]
        if gaps or not columns:
            raise DataError(
                f"data set {table.name!r} needs columns of finite numbers, "
                f"got {'gaps in ' + ', '.join(gaps) if gaps else 'none'}; fill or remove them"
            )
        return torch.from_numpy(values.T.copy())

    train, test = matrix(table.train), matrix(table.test)
    std, mean = torch.std_mean(train.double(), dim=0, correction=0)
    std = torch.where(std > 0, std, 1.0)
    return train, test, Standardise(tuple(mean.tolist()), tuple(std.tolist()))


def _labelled(table: Table, inputs: Inputs, defaults: Defaults) -> Dataset:
    train, test, prepare = inputs
    labels = [np.array(read(table.label)) for read in (table.train, table.test)]
    classes = _count_classes(np.concatenate(labels), table.name)
    kept = [torch.from_numpy(one.astype(np.int32 if classes else np.float32)) for one in labels]
    return Dataset(
        name=table.name,
        loss="cross_entropy" if classes else "mse",
        classes=classes or 1,
        input_shape=tuple(train.shape[1:]),
        train=Pool(train, kept[0], prepare),
        test=Pool(test, kept[1], prepare),
        defaults=defaults,
        labels=labels[0] if classes else None,
        natural=table.owners,
    )


def _count_classes(labels: np.ndarray, name: str) -> int:
    """Number of classes; 0 where the labels are fractions."""
    kind = labels.dtype.kind
    if kind == "f" and np.isfinite(labels).all():
        return 0
    if kind in "iub" and labels.min() >= 0:
        return int(labels.max()) + 1
    raise DataError(
        f"labels of {name!r} must be class numbers from 0, or finite fractions, got "
        f"{labels[:3].tolist()} ...; see datasets' class_encode_column"
    )


def _text(table: Table) -> Dataset:
    def cut(read: Read) -> tuple[np.ndarray, np.ndarray]:
        texts = [one or "" for one in read("text")]
        owners = [""] * len(texts) if table.owner is None else read(table.owner)
        joined = join(texts, owners).items()
        return windows({one: np.frombuffer(own.encode(), dtype=np.uint8) for one, own in joined})

    (train, owners), (test, _) = cut(table.train), cut(table.test)
    return Dataset(
        name=table.name,
        loss="next_token",
        classes=256,
        input_shape=(WINDOW,),
        train=as_pool(train),
        test=as_pool(test),
        defaults=TEXT_DEFAULTS,
        natural=None if table.owner is None else owners,
    )
