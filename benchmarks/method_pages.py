"""Write docs/methods/: a page a method, from its docstring, its settings and what docs/fidelity.md has measured of it.

.venv/bin/python benchmarks/method_pages.py
"""

import argparse
import inspect
import re
import tomllib
from pathlib import Path

from fidelity import TABLES
from tables import DOCS, markdown

from fedbonsai.cli.lists import attributes_of, summary
from fedbonsai.core.fields import describe
from fedbonsai.methods import METHODS, method_class

TITLES = {
    "reach": "fashion_mnist, the shortest way to few bytes",
    "fashion": "fashion_mnist, the example CNN",
    "cifar": "cifar10, LeNet-5",
    "lstm": "shakespeare, the LSTM over 120 rounds",
    "tiers": "cifar10, devices of five tiers",
    "smaller": "fashion_mnist, smaller models",
    "shakespeare": "shakespeare, LSTM",
    "kinds": "kinds of networks",
    "personal": "personal models, two classes a client",
}

HEADS = ("Symbols", "Differs")


def page(method: str) -> str:
    """One method's page."""
    cls = method_class(method)
    module = inspect.getmodule(cls)
    title, _, rest = inspect.cleandoc((module and module.__doc__) or "").partition("\n")
    name, _, what = title.partition(": ")
    meanings = attributes_of(cls)
    settings = [["setting", "default", "type", "range", "meaning"]] + [
        [f"`{one.name}`", f"`{one.default}`", escaped(one.kind), one.range, escaped(meanings.get(one.name, ""))]
        for one in describe(cls)
    ]
    text = [
        f"# {name} (`{method}`)",
        what[:1].upper() + what[1:],
        paragraphs(rest.strip()),
        notes(method),
        "## Settings",
        markdown(settings, align="---"),
        "## Measured",
        measured(method),
        "Made by `benchmarks/method_pages.py` from the method's docstring and [fidelity](../fidelity.md).",
    ]
    return "\n\n".join(text) + "\n"


def notes(method: str) -> str:
    """What travels, what is saved, when to choose it."""
    note = tomllib.loads((DOCS / "methods" / "notes.toml").read_text("utf-8"))[method]
    return "\n".join(
        f"- **{head}**: {note[key]}."
        for head, key in (("Down", "down"), ("Up", "up"), ("Saved for real", "saves"), ("Choose it", "choose"))
    )


def paragraphs(text: str) -> str:
    """A docstring as Markdown: what begins with a word of `HEADS` is a paragraph of its own."""
    text = re.sub(rf"\n+(?=({'|'.join(HEADS)}):)", "\n\n", f"\n{text}").strip()
    text = re.sub(rf"(?m)^({'|'.join(HEADS)}):", r"**\1.**", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def measured(method: str) -> str:
    """The method's rows of every table in docs/fidelity.md, beside the dense ones."""
    whole = (DOCS / "fidelity.md").read_text("utf-8")
    found = []
    for name, (_, lines) in TABLES.items():
        block = re.search(f"<!-- {name} -->(.*?)<!-- /{name} -->", whole, re.DOTALL)
        rows = [row for row in (block.group(1) if block else "").splitlines() if row.startswith("|")]
        mine = [f"| {line.label} |" for line in lines if line.method == method and line.method != "fedavg"]
        own = [row for row in rows[2:] if row.startswith(tuple(mine))] if mine else []
        dense = [f"| {line.label} |" for line in lines if line.method == "fedavg" and not line.run.get("uplink")]
        if own:
            beside = [row for row in rows[2:] if row.startswith(tuple(dense))]
            found.append(f"{TITLES[name]}:\n\n" + "\n".join([*rows[:2], *beside, *own]))
    return "\n\n".join(found) or "In [fidelity](../fidelity.md) and [benchmarks](../benchmarks.md)."


def index() -> str:
    """The table of all pages."""
    rows = [["method", "what it does"]] + [[f"[{one}]({one}.md)", escaped(summary(one))] for one in METHODS]
    return f"# Methods\n\n{markdown(rows, align='---')}\n"


def escaped(text: str) -> str:
    """A text that may stand in a cell of a table."""
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", "\\|")


def pages() -> dict[str, str]:
    """Every page by file name."""
    return {"README.md": index(), **{f"{method}.md": page(method) for method in METHODS}}


def main() -> None:
    """Write all pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS / "methods")
    folder: Path = parser.parse_args().out
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
