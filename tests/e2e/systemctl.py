"""Stands in for systemctl: keeps a service running as its unit says, in the machine's directories.

What starts a service is done, and where its files are; users and protections are systemd's own business.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.deployment import Site, marked

HERE = Path(os.environ.get("SITE", "")) / os.environ.get("ROLE", "")
UNIT = "FEDBONSAI_UNIT"
Settings = list[tuple[str, str]]


def settings(unit: str) -> Settings:
    """What a unit says, with the paths and addresses of this machine."""
    pairs = (pair.split("=", 2) for pair in os.environ["PORTS"].split())
    ports = {(machine, port): int(here) for machine, port, here in pairs}
    site = Site(HERE.parent, bool(os.environ["SEPARATE"]), ports)
    text = site.real(HERE.name, (HERE / "etc/systemd/system" / f"{unit}.service").read_text())
    lines = text.replace("\\\n", " ").splitlines()
    return [(key, value) for key, sign, value in (line.partition("=") for line in lines) if sign and key[0] != "#"]


def environment(unit: str, said: Settings) -> dict[str, str]:
    """The environment that a service finds; nothing of this process but what ends it after the test."""
    found = {name: value for name, value in os.environ.items() if name.startswith("FEDBONSAI_")}
    found[UNIT] = f"{HERE}/{unit}"
    for value in (value for key, value in said if key == "Environment"):
        found |= dict(one.split("=", 1) for one in shlex.split(value))
    for value in (value for key, value in said if key == "EnvironmentFile"):
        lines = Path(value).read_text().split("\n")
        found |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    credentials = HERE / "credentials" / unit
    shutil.rmtree(credentials, ignore_errors=True)
    credentials.mkdir(mode=0o700, parents=True)
    for name, path in (value.split(":") for key, value in said if key == "LoadCredential"):
        shutil.copy(path, credentials / name)
    return found | {"CREDENTIALS_DIRECTORY": str(credentials)}


def supervise(unit: str) -> None:
    """Start a service, and again whenever it ends."""
    said = settings(unit)
    one = dict(said)
    (HERE / "var" / one["StateDirectory"]).mkdir(mode=0o700, exist_ok=True)
    assert one["Restart"] == "always"
    while True:
        given = environment(unit, said)
        words = shlex.split(one["ExecStart"])
        command = [_filled(word, given) for word in words]
        with (HERE / f"log-{unit}").open("ab") as log:
            subprocess.run(command, env=given, cwd="/", stdout=log, stderr=log, check=False, start_new_session=True)
        time.sleep(float(one["RestartSec"]))


def _filled(word: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        word = word.replace(f"${{{name}}}", value)
    return word


def start(unit: str) -> None:
    with (HERE / f"log-{unit}").open("ab") as log:
        words = [sys.executable, "-m", "tests.e2e.systemctl", "supervise", unit]
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def kill(unit: str) -> None:
    """Kill all processes of a service, as they are all in its control group."""
    for number in marked(f"{UNIT}={HERE}/{unit}"):
        os.kill(number, signal.SIGKILL)


def reload_nginx() -> None:
    """Debian's package has started it, with the sites of its directory."""
    subprocess.run(["nginx"], check=True)


def main(words: list[str]) -> None:
    match words:
        case ["supervise", unit]:
            supervise(unit)
        case ["daemon-reload"]:
            pass
        case ["enable", "--now", *units]:
            for unit in units:
                start(unit)
        case ["kill", "--signal=KILL", unit] | ["restart", unit]:
            kill(unit)
        case ["reload", "nginx"]:
            reload_nginx()
        case _:
            raise SystemExit(f"this stands in for systemctl, and cannot {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
