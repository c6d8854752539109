"""Data sets by name, from the package, from a data directory or through Hugging Face ``datasets``."""

from pathlib import Path

from fedbonsai.core.errors import lookup
from fedbonsai.data.dataset import Dataset
from fedbonsai.data.digits import load_digits
from fedbonsai.data.hub import load_hub
from fedbonsai.data.images import load_images
from fedbonsai.data.info import DATASETS
from fedbonsai.data.text import load_shakespeare


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: One of ``DATASETS``; or, with a slash in it or ``hf:`` before it, a local folder or a
            name on the Hugging Face Hub, see `fedbonsai.data.hub`.
        data_dir: Directory that holds ``<name>/train.parquet`` and ``test.parquet``; by default
            what FEDBONSAI_DATA names, else ``../shared/data`` beside a checkout of the source.

    Raises:
        ConfigError: The name is not known, or a package of the ``[data]`` extra is missing.
        DataError: The files are missing, damaged or unfit.

    Examples:
        >>> load("digits").classes
        10
        >>> load("digit")
        Traceback (most recent call last):
        fedbonsai.core.errors.ConfigError: unknown data set 'digit'; did you mean 'digits'? \
known: cifar10, digits, fashion_mnist, mnist, shakespeare
    """
    if "/" in name or name.startswith("hf:"):
        return load_hub(name)
    match lookup("data set", name, list(DATASETS)):
        case "digits":
            return load_digits()
        case "shakespeare":
            return load_shakespeare(data_dir)
        case _:
            return load_images(name, data_dir)
