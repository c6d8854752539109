"""Images: decoding them, and the data sets of images that have a name."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedbonsai.core.errors import DataError
from fedbonsai.data.cache import cached
from fedbonsai.data.dataset import Dataset, Standardise
from fedbonsai.data.extras import require
from fedbonsai.data.files import find_folder, read_columns
from fedbonsai.data.info import DATASETS, DatasetInfo
from fedbonsai.learning.task import Pool

MOMENTS: Mapping[str, Standardise] = {
    "mnist": Standardise((33.3,), (78.6,)),
    "fashion_mnist": Standardise((72.9,), (90.0,)),
    "cifar10": Standardise((125.3, 122.9, 113.9), (62.5, 61.9, 66.5)),
}
"""Mean and deviation of the training pixels, 0 to 255, a channel."""


def load_images(name: str, data_dir: Path | None = None) -> Dataset:
    """Load ``mnist``, ``fashion_mnist`` or ``cifar10`` from its Parquet files.

    Raises:
        ConfigError: A reader is not installed.
        DataError: The files are missing or damaged.
    """
    info, folder = DATASETS[name], find_folder(name, data_dir)
    train, test = (_pool(folder / f"{part}.parquet", info) for part in ("train", "test"))
    return Dataset(
        name=name,
        loss=info.loss,
        classes=info.classes,
        input_shape=tuple(train.inputs.shape[1:]),
        train=train,
        test=test,
        defaults=info.defaults,
        labels=train.targets.numpy(),
    )


def _pool(path: Path, info: DatasetInfo) -> Pool:
    (column,) = read_columns(path, "label")
    labels = np.array(column)
    if not np.isin(labels, np.arange(info.classes)).all():
        raise DataError(f"labels of {path} must be 0 to {info.classes - 1}, got others; fetch it again")
    pixels = cached(path, partial(_decode_file, path))
    return Pool(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.uint8)), MOMENTS[info.name])


def _decode_file(path: Path) -> np.ndarray:
    (images,) = read_columns(path, "image")
    return decode([image["bytes"] for image in images], str(path))


def decode(encoded: Sequence[bytes], source: str) -> np.ndarray:
    """Decode PNG or JPEG images of one size into uint8 of shape ``(count, channels, height, width)``.

    They have one channel when the first image is grey, otherwise three.

    Args:
        encoded: The files, at least one.
        source: Where they come from, for the message of an error.

    Raises:
        DataError: An image is damaged or has a size of its own.
    """
    opener = require("PIL.Image")
    mode = ""
    arrays = []
    try:
        for one in encoded:
            image = opener.open(io.BytesIO(one))
            mode = mode or ("L" if image.mode in ("1", "L") else "RGB")
            arrays.append(np.asarray(image.convert(mode)))
        stacked = np.stack(arrays)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"the images of {source} must be whole PNG or JPEG files of one size; "
            f"{error} (the first {len(arrays)} could be read)"
        ) from error
    return stacked[:, None] if mode == "L" else stacked.transpose(0, 3, 1, 2)
