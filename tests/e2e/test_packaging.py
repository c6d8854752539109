"""The wheel holds what it must, asks for what it needs, and works without the checkout; the README tells the truth."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_digits_the_licences_and_the_mark_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in ("fedbonsai/py.typed", "fedbonsai/data/digits.npz", "fedbonsai/data/digits.LICENSE"):
        assert name in names
    assert sum(name.endswith(".dist-info/licenses/LICENSE") for name in names) == 1
    assert all(name.startswith(("fedbonsai/", "fedbonsai-")) for name in names)


def test_the_wheel_asks_for_python_3_11_and_has_the_extras(metadata: Message) -> None:
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == {"cluster", "data", "flower", "report", "watch", "dev"}


def test_requirements_have_lower_bounds_only(metadata: Message) -> None:
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if requirement.name not in ("fedbonsai", "flwr"):  # Flower's interface for apps changes between minor versions
            assert [bound.operator for bound in requirement.specifier] == [">="], text


def test_the_source_imports_only_what_is_declared(metadata: Message) -> None:
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    declared = {canonicalize_name(one.name) for one in required if str(one.marker) != 'extra == "dev"'}
    imported = set()
    for node in (node for file in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    homes = packages_distributions()
    for name in imported - sys.stdlib_module_names - {"fedbonsai"}:
        assert declared & {canonicalize_name(home) for home in homes[name]}, name


def test_constraints_pin_every_direct_requirement_to_a_release(metadata: Message) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for requirement in (Requirement(line) for line in lines if not line.startswith("#")):
        [bound] = requirement.specifier
        assert bound.operator == "=="
        assert "+" not in bound.version
        pinned[canonicalize_name(requirement.name)] = bound.version
    assert (pinned["torch"], pinned["flwr"]) == ("2.13.0", "1.41.0")
    for requirement in map(Requirement, metadata.get_all("Requires-Dist", [])):
        if requirement.name != "fedbonsai":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all(Requirement(text).name in pinned for text in build)


@pytest.mark.slow
def test_the_installed_wheel_helps_and_runs(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)

    def run(*command: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(site),
        }  # comes before the checkout that is installed for development
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(sys.executable, "-c", "import fedbonsai; print(fedbonsai.__file__)").startswith(str(site))
    assert "compare" in run(str(site / "bin" / "fedbonsai"), "--help")
    run(str(site / "bin" / "fedbonsai"), "run", "digits", "--rounds", "2", "--out", "made")
    result = json.loads((tmp_path / "made" / "result.json").read_text())
    assert len(result["rounds"]) == 2


def test_the_python_examples_of_the_readme_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    program = "\n".join(examples)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mine" / "result.json").exists()
