"""The pages of the methods are what their script makes of docstrings, notes and measurements."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedbonsai.methods import METHODS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "methods"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    subprocess.run([sys.executable, "benchmarks/method_pages.py", "--out", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("name", ["README.md", *(f"{method}.md" for method in METHODS)])
def test_a_page_is_what_its_script_makes(made, name):
    said = "run benchmarks/method_pages.py and commit what it writes"
    assert (PAGES / name).read_text("utf-8") == (made / name).read_text("utf-8"), said


def test_no_page_is_left_of_a_method_that_is_gone():
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *METHODS}
