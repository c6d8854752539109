"""What ``methods``, ``datasets`` and ``inspect`` print."""

import inspect
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedbonsai import wire
from fedbonsai.core.errors import DataError, lookup
from fedbonsai.core.fields import describe
from fedbonsai.data.info import DATASETS
from fedbonsai.methods import METHODS, method_class


def show_methods(name: str | None) -> None:
    """Print the table of methods, or the settings of one."""
    if name is None:
        table = _table("method", "what it does")
        for one in METHODS:
            table.add_row(one, summary(one))
        Console().print(table)
        return
    cls = method_class(name)
    module = inspect.getmodule(cls)
    print(inspect.cleandoc((module and module.__doc__) or ""), end="\n\n")
    table = _table("setting", "default", "type", "range", "meaning")
    meanings = attributes_of(cls)
    for field in describe(cls):
        table.add_row(field.name, str(field.default), field.kind, field.range, meanings.get(field.name, ""))
    Console().print(table)


def show_datasets(name: str | None) -> None:
    """Print the table of data sets, or all that is known of one."""
    if name is None:
        table = _table("data set", "train", "test", "classes", "what it is")
        for info in DATASETS.values():
            table.add_row(info.name, f"{info.train:,}", f"{info.test:,}", str(info.classes), info.description)
        Console().print(table)
        return
    info = DATASETS[lookup("data set", name, list(DATASETS))]
    print(f"{info.name}: {info.description}\n{info.source}\n")
    table = _table("setting", "default")
    for key, value in vars(info.defaults).items():
        table.add_row(key, str(value))
    Console().print(table)


def show_message(file: Path) -> None:
    """Print what an encoded message holds.

    Raises:
        DataError: The file cannot be read.
        WireError: It holds no message.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} must be a file that can be read; {error}") from error
    print(wire.describe(data))


def summary(method: str) -> str:
    """What a method does, in one line: the first of its file."""
    module = inspect.getmodule(method_class(method))
    first = ((module and module.__doc__) or "").strip().splitlines()[0]
    return first.partition(": ")[2]


def attributes_of(cls: type) -> dict[str, str]:
    """What the docstring of a class says of each attribute."""
    found: dict[str, str] = {}
    name = ""
    inside = False
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if line.strip() == "Attributes:":
            inside = True
        elif inside and line.startswith("    ") and not line.startswith("     "):
            name, _, text = line.strip().partition(": ")
            found[name] = text
        elif inside and line.startswith("     "):
            found[name] += " " + line.strip()
    return found


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
