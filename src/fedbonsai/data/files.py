"""Where the data lie, and reading their Parquet files."""

import os
from pathlib import Path
from typing import Any

from fedbonsai.core.errors import DataError
from fedbonsai.data.extras import require

_BESIDE_CHECKOUT = Path(__file__).parents[4] / "shared" / "data"


def find_folder(name: str, data_dir: Path | None = None) -> Path:
    """Return the folder of the data set ``name``.

    It is looked for in ``data_dir``, else in what the environment variable FEDBONSAI_DATA names,
    else in ``../shared/data`` beside a checkout of the source.

    Raises:
        DataError: None of them is given, or the folder does not exist.
    """
    given = data_dir or os.environ.get("FEDBONSAI_DATA")
    base = Path(given) if given else _BESIDE_CHECKOUT
    folder = base / name
    if folder.is_dir():
        return folder
    problem = f"{folder} is not a folder" if given else "no data directory was given"
    raise DataError(
        f"data set {name!r} must lie in a data directory, but {problem}; give the directory that "
        f"holds {name}/train.parquet with --data-dir or FEDBONSAI_DATA"
    )


def read_columns(path: Path, *names: str) -> list[list[Any]]:
    """Read columns of a Parquet file; one list of plain values a column.

    Raises:
        DataError: The file is missing, damaged, or lacks a column.
    """
    parquet = require("pyarrow.parquet")
    try:
        table = parquet.read_table(path, columns=list(names))
        return [table[name].to_pylist() for name in names]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} must be a Parquet file with the columns {', '.join(names)}; {error}; fetch it again"
        ) from error
