"""The data set that comes with the package."""

import zipfile
from importlib.resources import files

import numpy as np
import torch

from fedbonsai.core.errors import DataError
from fedbonsai.data.dataset import Dataset, Standardise
from fedbonsai.data.info import DATASETS
from fedbonsai.learning.task import Pool

MOMENTS = Standardise((4.9,), (6.0,))
"""Mean and deviation of the training pixels, 0 to 16."""


def load_digits() -> Dataset:
    """Load the embedded digits, in the order and split that ``scripts/make_digits.py`` gave them.

    Raises:
        DataError: The file in the package is missing or damaged.

    Examples:
        >>> digits = load_digits()
        >>> len(digits.train), len(digits.test), digits.input_shape
        (1437, 360, (1, 8, 8))
    """
    info = DATASETS["digits"]
    try:
        with (files("fedbonsai.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
            images, labels = arrays["images"][:, None], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"the digits in the package cannot be read; {error}; install fedbonsai again") from error
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    return Dataset(
        name=info.name,
        loss=info.loss,
        classes=info.classes,
        input_shape=tuple(inputs.shape[1:]),
        train=Pool(inputs[: info.train], targets[: info.train], MOMENTS),
        test=Pool(inputs[info.train :], targets[info.train :], MOMENTS),
        defaults=info.defaults,
        labels=labels[: info.train],
    )
