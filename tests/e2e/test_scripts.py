"""The scripts on machines that are not as they should be.

A stand-in for Python answers for the interpreter, venv and pip, so that a set-up takes milliseconds; one test asks the
real pip.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["bash", "sh", "cat", "cksum", "cp", "dirname", "flock", "head", "mkdir", "rm", "sleep", "tail", "tee"]
PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$1 $2" in
  "-c "*) echo "$VERSION $0" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") eval "$PIP" ;;
  *) echo "in $PWD" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout in a folder with a space in its name, and all the commands that the machine has."""

    checkout: Path
    bin: Path

    def add_python(self, name: str, version: str) -> Path:
        path = self.bin / name
        path.write_text(PYTHON.replace("$VERSION", version))
        path.chmod(0o755)
        return path

    def start(self, script: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a script; the environment variable PIP is the shell command that stands in for pip."""
        return subprocess.Popen(
            [self.checkout / script, *arguments],
            cwd="/",
            env={"PATH": str(self.bin), "CALLS": str(self.bin / "calls"), "PIP": "true", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self, start: str) -> list[str]:
        """What Python was asked to do, of all that starts so."""
        path = self.bin / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(start)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "a checkout", tmp_path / "bin")
    for folder in ("scripts", ".ci"):
        shutil.copytree(ROOT / folder, made.checkout / folder)
    for file in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, made.checkout)
    made.bin.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (made.bin / tool).symlink_to(found)
    return made


def test_a_python_that_is_too_old_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", "3.8.18")
    for script in ("scripts/test", "scripts/demo", "scripts/check"):
        done = machine.run(script)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "Python 3.11 or newer is needed (python3 is 3.8.18)" in done.stderr
        assert not (machine.checkout / ".venv").exists()


def test_no_python_at_all_is_one_clear_line(machine: Machine) -> None:
    done = machine.run("scripts/test")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "(none found)" in done.stderr


def test_a_newer_python_is_found_beside_one_that_is_too_old(machine: Machine) -> None:
    machine.add_python("python3", "3.8.18")
    machine.add_python("python3.12", "3.12.1")
    done = machine.run("scripts/test", "--setup-only")
    assert done.returncode == 0
    assert "with Python 3.12.1" in done.stdout
    assert not machine.calls("-m pytest")


def test_the_python_that_is_named_is_taken(machine: Machine, tmp_path: Path) -> None:
    machine.add_python("python3", "3.11.7")
    own = machine.add_python("own python", "3.13.0")
    assert "with Python 3.13.0" in machine.run("scripts/test", "--setup-only", PYTHON=str(own)).stdout
    done = machine.run("scripts/test", PYTHON=str(tmp_path / "missing"))
    assert done.returncode == 1
    assert "(none found)" in done.stderr


def test_the_second_run_installs_nothing(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    first = machine.run("scripts/test")
    assert (first.returncode, first.stderr) == (0, "")
    again = machine.run("scripts/test", PIP="exit 1")
    assert (again.returncode, again.stderr) == (0, "")
    assert len(machine.calls("-m pip")) == len(machine.calls("-m venv")) == 1
    assert len(machine.calls("-m pytest")) == 2


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_in_place(machine: Machine, file: str) -> None:
    machine.add_python("python3", "3.11.7")
    machine.run("scripts/test", "--setup-only")
    with (machine.checkout / file).open("a") as end:
        end.write("# changed\n")
    assert machine.run("scripts/test", "--setup-only").returncode == 0
    assert (len(machine.calls("-m venv")), len(machine.calls("-m pip"))) == (1, 2)


def test_an_update_that_failed_is_tried_again_in_place(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    machine.run("scripts/test", "--setup-only")
    constraints = machine.checkout / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    assert machine.run("scripts/test", "--setup-only", PIP="exit 1").returncode == 1
    constraints.write_text(before)
    assert machine.run("scripts/test", "--setup-only").returncode == 0
    assert (len(machine.calls("-m venv")), len(machine.calls("-m pip"))) == (1, 3)


def test_another_python_or_place_makes_the_environment_anew(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    machine.run("scripts/test", "--setup-only")
    machine.add_python("python3", "3.11.8")
    machine.run("scripts/test", "--setup-only")
    assert len(machine.calls("-m venv")) == 2
    moved = Machine(machine.checkout.rename(machine.checkout.with_name("moved")), machine.bin)
    moved.run("scripts/test", "--setup-only")
    assert len(machine.calls("-m venv")) == 3


def test_an_environment_that_was_left_half_made_is_made_anew(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert machine.run("scripts/test", PIP="exit 1").returncode == 1
    leftover = machine.checkout / ".venv" / "leftover"
    leftover.touch()
    again = machine.run("scripts/test")
    assert (again.returncode, again.stderr) == (0, "")
    assert not leftover.exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_two_scripts_at_once_set_up_once(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    both = [machine.start("scripts/test", "--setup-only", PIP="sleep 0.3") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(machine.calls("-m pip")) == 1
    assert sum("waiting for another set-up" in output for output in outputs) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device: '/x'", "the disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded: '/x'", "the disk is full"),
        ("OSError: [Errno 30] Read-only file system: '/x'", "the disk cannot be written"),
        ("WARNING: Retrying (Retry(total=0)) after connection broken by 'X'", "the package index cannot be reached"),
        ("HTTPSConnectionPool(host='index', port=443): Max retries", "the package index cannot be reached"),
        ("ReadTimeoutError: Read timed out.", "the package index cannot be reached"),
        ("ERROR: HTTP error 502 while getting torch", "the package index cannot be reached"),
        ("ERROR: No matching distribution found for torch", "the package index lacks a version for Python 3.11.7"),
        ("a warning\nERROR: something new", "ERROR: something new"),
    ],
)
def test_a_failed_installation_is_one_line_that_says_what_to_check(machine: Machine, said: str, reason: str) -> None:
    machine.add_python("python3", "3.11.7")
    done = machine.run("scripts/demo", PIP="printf '%s\\n' \"$SAID\"; exit 1", SAID=said)
    log = machine.checkout / ".venv" / "setup.log"
    assert done.returncode == 1
    assert done.stderr.startswith(f"demo: cannot install the packages: {reason}")
    assert done.stderr.endswith(f"(log: {log})\n")
    assert done.stderr.count("\n") == 1
    assert said in log.read_text()


def test_a_disk_that_cannot_be_written_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    mkdir = machine.bin / "mkdir"
    mkdir.unlink()
    mkdir.write_text("#!/bin/sh\necho 'mkdir: Read-only file system' >&2; exit 1\n")
    mkdir.chmod(0o755)
    done = machine.run("scripts/test")
    assert done.returncode == 1
    assert done.stderr == f"test: cannot make {machine.checkout}/.venv: check the disk, its space and its rights\n"


def test_an_index_that_cannot_be_reached_is_one_clear_line(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
    real = f"'{sys.executable}' \"$@\" --dry-run"
    done = machine.run("scripts/test", PIP=real, **closed)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot install the packages: the package index cannot be reached" in done.stderr


def test_arguments_go_to_pytest_and_only_slow_runs_slow_tests(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    done = machine.run("scripts/test", "tests/unit", "-k", "support")
    assert done.stdout.endswith(f"in {machine.checkout}\n")
    machine.run("scripts/test", "--slow")
    usual = "-m pytest -n 2 --dist loadfile -m not slow"
    assert machine.calls("-m pytest") == [f"{usual} tests/unit -k support", f"{usual} -m "]


def test_help_sets_nothing_up(machine: Machine) -> None:
    done = machine.run("scripts/test", "--help")
    assert done.returncode == 0
    assert "--setup-only" in done.stdout


def test_the_demo_runs_the_main_job(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    done = machine.run("scripts/demo", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout.endswith(f"in {machine.checkout}\n")
    job = "-m fedbonsai compare digits --methods fedavg,local-prune --out runs/demo --seed 1"
    assert machine.calls("-m fedbonsai") == [job]


def test_mutants_are_made_in_the_environment(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    assert machine.run("scripts/mutate", "--sample", "9").returncode == 0
    assert machine.calls(str(machine.checkout)) == [f"{machine.checkout}/scripts/mutate.py --sample 9"]


def test_the_check_goes_on_after_a_finding_and_names_it_last(machine: Machine) -> None:
    machine.add_python("python3", "3.11.7")
    machine.run("scripts/test", "--setup-only")
    for tool, result in {"ruff": "true", "codespell": "false", "mypy": "false", "lint-imports": "true"}.items():
        (machine.checkout / ".venv" / "bin" / tool).symlink_to(str(shutil.which(result)))
    done = machine.run("scripts/check")
    assert (done.returncode, done.stderr) == (1, "check: failed: spelling types\n")
    assert "check: layers\n" in done.stdout


def test_continuous_integration_checks_and_then_tests(machine: Machine) -> None:
    for script in ("check", "test"):
        (machine.checkout / "scripts" / script).write_text(f'#!/usr/bin/env bash\necho {script} "$@"\n')
    done = machine.run(".ci/run", "--slow")
    assert (done.returncode, done.stdout) == (0, "check\ntest --slow\n")
