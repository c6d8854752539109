"""Put small faults into the code, one at a time, and see whether the tests notice: mutation testing with mutmut.

Sums, masks and bytes are what a wrong sign or an index off by one spoils silently, so the packages that make them are
the ones whose tests are tested. Everything happens in a temporary copy of the checkout; the tree stays as it is.

mutmut changes operators, comparisons, numbers, texts, arguments, assignments and conditions in functions and methods.
It leaves out docstrings, annotations, decorators, properties, and code outside functions: tables of constants and
defaults, which the golden files of the wire format hold. Left out here, because no test can or should notice:

- the text of an error, the last argument of an exception or of `require`: for people, and free to change;
- ``strict`` of a `zip`: it says what holds by construction.

A mutant counts as killed when a test fails, or takes several times as long as all that reach the mutated function:
an endless loop. Hypothesis draws the same examples every time and keeps none, so that no mutant helps to kill the next.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTATED = ("src/fedbonsai/sparsity/*", "src/fedbonsai/federated/aggregate.py", "src/fedbonsai/wire/*")
TESTS = (
    "tests/unit/test_sparsity_*.py",
    "tests/unit/test_wire_*.py",
    "tests/wire/test_*.py",
    "tests/golden/test_aggregate.py",
    "tests/golden/test_channel_places.py",
    "tests/golden/test_worked_example.py",
)
KILLED = ("killed", "timeout", "segfault")
EXAMPLES = """
from hypothesis import Phase

phases = [Phase.explicit, Phase.generate]  # to make a failing example smaller takes minutes, and tells nothing here
settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
settings.load_profile("mutants")
"""
# Which mutant does not matter: the first run makes them all and measures which test reaches which function.
FIRST = "fedbonsai.wire.bits.x_bytes_of__mutmut_1"


class WithoutTexts(ast.NodeTransformer):
    """Blanks what makes no difference that counts."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Blank the text of an exception."""
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call) and node.exc.args:
            node.exc.args[-1] = ast.Constant(0)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Blank the text of a `require`, and ``strict`` of a `zip`."""
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "require" and len(node.args) == 4:
            node.args[-1] = ast.Constant(0)
        if name == "zip":
            node.keywords = []
        return node


def main() -> int:
    """Run what the command line asks for; 1 if the score is below the least that is wanted."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description="See whether the tests notice faults.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--sample", type=int, default=300, metavar="N", help="mutants to draw (default: %(default)s)")
    size.add_argument("--all", action="store_true", help="take every mutant: hours")
    parser.add_argument("--seed", type=int, default=0, help="which ones are drawn (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants with this in their names")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time (default: %(default)s)")
    parser.add_argument("--least", type=float, default=90.0, metavar="PERCENT", help="the score that is wanted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        prepare(copy)
        print("making the mutants and measuring the tests (about two minutes)", flush=True)
        mutmut(copy, "run", "--max-children", str(options.workers), FIRST)
        known = [name for name in sorted(mutants(copy)) if options.only in name]
        drawn = (
            known if options.all else sorted(random.Random(options.seed).sample(known, min(options.sample, len(known))))
        )
        print(f"running {len(drawn)} of {len(known)} mutants, seed {options.seed}", flush=True)
        mutmut(copy, "run", "--max-children", str(options.workers), *drawn)
        lines = mutmut(copy, "results", "--all", "true").splitlines()
        found = dict(re.findall(r"(\S+): (.+)", "\n".join(lines)))
        alive = [name for name in drawn if found[name] not in KILLED]
        for name in alive:
            print(f"\n{found[name]}: " + mutmut(copy, "show", name).strip())
    return report(Counter(map(module, known)), Counter(map(module, drawn)), Counter(map(module, alive)), options.least)


def prepare(copy: Path) -> None:
    """Copy what the tests need, with the settings of mutmut and of hypothesis."""
    leave = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for part in ("src", "tests", "docs"):
        shutil.copytree(ROOT / part, copy / part, ignore=leave)
    tests = sorted(str(file.relative_to(ROOT)) for pattern in TESTS for file in ROOT.glob(pattern))
    settings = {
        "source_paths": ["src/"],
        "also_copy": ["docs/"],
        "only_mutate": list(MUTATED),
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-m", "not slow", "-p", "no:cacheprovider"],
        # Tests that were run in the process that is forked leave what they have made once for all of them: traces, say.
        "process_isolation": "forkserver",
        "timeout_multiplier": 3.0,
        "timeout_constant": 5.0,
    }
    table = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    own = (ROOT / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(f"{own}\n[tool.mutmut]\n{table}")
    with (copy / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(EXAMPLES)


def mutmut(copy: Path, *arguments: str) -> str:
    """Run a command of mutmut in the copy; what it prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"COLUMNS": "200"}, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def mutants(copy: Path) -> Iterator[str]:
    """The names of all mutants that differ in more than texts.

    mutmut writes every mutant of a function beside it, as ``NAME__mutmut_1`` beside ``NAME__mutmut_orig``.
    """
    source = copy / "mutants" / "src"
    for file in sorted(source.rglob("*.py.meta")):
        path = file.with_suffix("")
        functions = {
            node.name: node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and "__mutmut_" in node.name
        }
        code = {name: _code(node) for name, node in functions.items()}
        place = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for name, own in code.items():
            if own != code[re.sub(r"__mutmut_\w+$", "__mutmut_orig", name)]:
                yield f"{place}.{name}"


def _code(function: ast.FunctionDef) -> str:
    blank = WithoutTexts().visit(function)
    return ast.dump(blank.args) + "".join(map(ast.dump, blank.body))


def module(name: str) -> str:
    """The module of a mutant, without the package's name."""
    return name.removeprefix("fedbonsai.").partition(".x")[0]


def report(known: Counter[str], drawn: Counter[str], alive: Counter[str], least: float) -> int:
    """Print the score of every module and package; 1 if one of the packages is below ``least``."""
    packages: dict[str, list[str]] = {}
    for one in sorted(known):
        packages.setdefault(one.partition(".")[0], []).append(one)
    print(f"\n{'':24}{'mutants':>8}{'drawn':>8}{'killed':>8}{'score':>9}")
    scores = []
    for package, modules in [*packages.items(), ("all", sorted(known))]:
        for one in [] if package == "all" else modules:
            _row(f"  {one}", [one], known, drawn, alive)
        scores.append(_row(package, modules, known, drawn, alive))
    print("\nat least " + f"{least:g} % wanted: " + ("reached" if scores[-1] >= least else "missed"))
    return int(scores[-1] < least)


def _row(title: str, modules: list[str], *counts: Counter[str]) -> float:
    known, drawn, alive = (sum(one[name] for name in modules) for one in counts)
    score = 100 * (drawn - alive) / drawn if drawn else 100.0
    print(f"{title:24}{known:>8}{drawn:>8}{drawn - alive:>8}{score:>7.1f} %")
    return score


if __name__ == "__main__":
    sys.exit(main())
