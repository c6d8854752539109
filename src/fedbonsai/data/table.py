"""What the columns of a Hugging Face data set are good for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from fedbonsai.core.errors import DataError
from fedbonsai.data.extras import require

ID_COLUMNS = ("client_id", "writer_id", "user_id", "speaker_id", "subject", "hospital")
"""Columns that say which client a row belongs to."""

Kind = Literal["image", "class", "number", "other"]

Read = Callable[[str], list[Any]]
"""The name of a column to its values, one a row."""


@dataclass(frozen=True, eq=False)
class Table:
    """A data set with a training and a test part.

    Attributes:
        name: What it was asked for by.
        kinds: What each column holds.
        train: Reads a column of the training part.
        test: Reads a column of the test part.
    """

    name: str
    kinds: Mapping[str, Kind]
    train: Read
    test: Read

    @property
    def image(self) -> str | None:
        """The column with images: the first, if there is one."""
        return next((name for name, kind in self.kinds.items() if kind == "image"), None)

    @property
    def label(self) -> str:
        """The column with the label: ``label``, else the first with class names."""
        named = [name for name, kind in self.kinds.items() if kind == "class"]
        for name in ("label", *named):
            if name in self.kinds:
                return name
        raise DataError(
            f"data set {self.name!r} needs a column 'label' or 'text', got "
            f"{', '.join(self.kinds)}; rename one with datasets' rename_column"
        )

    @property
    def owner(self) -> str | None:
        """The column with the client of each row: the first of `ID_COLUMNS`, if there is one."""
        return next((name for name in ID_COLUMNS if name in self.kinds), None)

    @property
    def owners(self) -> np.ndarray | None:
        """The client of each training row."""
        return None if self.owner is None else np.array([str(one) for one in self.train(self.owner)])

    @property
    def numbers(self) -> list[str]:
        """The columns with one number a row, besides the label and the client."""
        others = {self.label, self.owner}
        return [name for name, kind in self.kinds.items() if kind == "number" and name not in others]


def open_table(source: str) -> Table:
    """Open a local folder or a name on the Hub.

    Raises:
        ConfigError: ``datasets`` is not installed.
        DataError: It cannot be opened or lacks a split.
    """
    hub = require("datasets")
    saved = Path(source, "dataset_dict.json").is_file()
    try:
        parts = hub.load_from_disk(source) if saved else hub.load_dataset(source)
    except (OSError, ValueError, LookupError, RuntimeError, hub.exceptions.DatasetsError) as error:
        raise DataError(
            f"{source!r} must be a folder or a name on the Hub that Hugging Face datasets can open; {error}"
        ) from error
    test = "test" if "test" in parts else "validation"
    if not {"train", test} <= set(parts):
        raise DataError(
            f"data set {source!r} needs the splits 'train' and 'test', got {', '.join(parts)}; "
            "cut it with datasets' train_test_split"
        )
    kinds = {name: _kind(hub, feature) for name, feature in parts["train"].features.items()}
    for name, kind in kinds.items():
        if kind == "image":
            parts = parts.cast_column(name, hub.Image(decode=False))
    return Table(
        source,
        kinds,
        train=lambda column: list(parts["train"][column]),
        test=lambda column: list(parts[test][column]),
    )


def _kind(hub: ModuleType, feature: object) -> Kind:
    if isinstance(feature, hub.Image):
        return "image"
    if isinstance(feature, hub.ClassLabel):
        return "class"
    dtype = feature.dtype if isinstance(feature, hub.Value) else "other"
    return "number" if dtype.startswith(("int", "uint", "float", "bool")) else "other"
