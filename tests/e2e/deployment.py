"""Machines to follow docs/deploy.md on: a network namespace each where this machine allows it, else all on loopback.

Each has directories of its own in place of ``/etc``, ``/var/lib`` and the home of its user. Four programs are stood in
for: ``sudo`` runs what it is given, ``scp`` copies to another machine's home, ``useradd`` does nothing, and
``systemctl`` keeps a service running as its unit says. ``/opt/fedbonsai`` is the environment of the tests.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fedbonsai.flower.loopback import free_ports

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
ADDRESSES = {"server": "192.0.2.10", "device-0": "192.0.2.11", "device-1": "192.0.2.12"}
ROLES = {"everywhere": list(ADDRESSES), "devices": ["device-0", "device-1"]}
MARK = "FEDBONSAI_SITE"

NGINX = """
user root;
pid @/pid;
error_log @/error.log;
events {}
http {
    access_log off;
    client_body_temp_path @/body;
    proxy_temp_path @/proxy;
    fastcgi_temp_path @/fastcgi;
    uwsgi_temp_path @/uwsgi;
    scgi_temp_path @/scgi;
    include @/conf.d/*.conf;
}
"""
"""As Debian's, in a directory of its own."""

STAND_INS = {
    "sudo": 'exec "$@"',
    "useradd": "exit 0",
    "scp": """
        [ "$1" = -r ] && shift
        case "${@: -1}" in 192.0.2.11:) to=device-0 ;; 192.0.2.12:) to=device-1 ;; *) exit 1 ;; esac
        cp -r "${@:1:$#-1}" "$SITE/$to/home"
    """,
    "python3": """
        [ "$1 $2" = "-m venv" ] || exit 1
        mkdir -p "$3/bin"
        ln -sf @PROGRAMS@/* "$3/bin"
        ln -sf "$SITE/$ROLE/stand-ins/pip" "$3/bin/pip"
    """,
    "pip": '[ "$*" = "install .[flower]" ] && grep -q \'^name = "fedbonsai"\' pyproject.toml',
    "systemctl": 'PYTHONPATH=@ROOT@ exec @PYTHON@ -m tests.e2e.systemctl "$@"',
    "nginx": """
        sed -i "s# /etc/fedbonsai# $SITE/$ROLE/etc/fedbonsai#" "$SITE/$ROLE"/etc/nginx/conf.d/*.conf
        exec @NGINX@ -c "$SITE/$ROLE/etc/nginx/nginx.conf" "$@"
    """,
}


@dataclass(frozen=True)
class Block:
    """Commands of a page.

    Attributes:
        section: The heading that they stand under.
        where: A machine, or ``everywhere``, ``devices`` or ``terminal``; the server where nothing is said.
        running: Whether they go on until they are ended.
        text: The commands.
    """

    section: str
    where: str
    running: bool
    text: str


def blocks(page: str) -> list[Block]:
    """All commands of a page, in order."""
    found = []
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        section = part.partition("\n")[0]
        for info, text in re.findall(r"^```bash *(.*?)\n(.*?)^```", part, re.MULTILINE | re.DOTALL):
            where = [word for word in info.split() if word != "running"]
            found.append(Block(section, where[0] if where else "server", "running" in info.split(), text))
    return found


@dataclass
class Site:
    """Three machines.

    Attributes:
        path: Where their directories are.
        separate: Whether each has a network of its own.
        ports: In place of those that pages name, when all share one network.
        prelude: What is said in every terminal first.
        begun: Commands that run until they are ended.
    """

    path: Path
    separate: bool
    ports: dict[tuple[str, str], int] = field(default_factory=dict)
    prelude: str = ""
    begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def home(self, machine: str) -> Path:
        return self.path / machine / "home"

    def real(self, machine: str, text: str) -> str:
        """Paths and, on one network, addresses of a page as they are on a machine here."""
        own = self.path / machine
        for there, here in {"/opt/fedbonsai": own / "opt", "/etc/": own / "etc", "/var/lib/": own / "var"}.items():
            text = text.replace(there, f"{here}/" if there.endswith("/") else str(here))
        if not self.separate:
            text = text.replace("192.0.2.10:8443", "192.0.2.10:8000")  # there is no door either
            text = re.sub(r"192\.0\.2\.10(?=:| --port)", "127.0.0.1", text)
            for (owner, port), free in self.ports.items():
                if owner == machine or port == "8000":
                    text = re.sub(rf"(?<=:|\s){port}\b", str(free), text)
        return text

    def start(self, machine: str, text: str, log: Path) -> subprocess.Popen[bytes]:
        """Have a shell on a machine go through commands; the first that fails ends it."""
        own = self.path / machine
        environment = {
            "HOME": str(own / "home"), "SITE": str(self.path), "ROLE": machine, "N": machine[-1], MARK: str(self.path),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self.ports["server", "local"]),
            "PATH": f"{own / 'stand-ins'}:{os.environ['PATH']}", "SEPARATE": "1" if self.separate else "",
            "PORTS": " ".join(f"{who}={port}={here}" for (who, port), here in self.ports.items()),
        }  # fmt: skip
        words = ["bash", "-euo", "pipefail", "-c", self.real(machine, self.prelude + text)]
        with log.open("ab") as file:
            return subprocess.Popen(
                [*self.inside(machine), *words],
                env=environment, cwd=own / "home", stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def inside(self, machine: str) -> list[str]:
        """What comes before a command so that it runs on a machine."""
        return ["ip", "netns", "exec", f"{self.path.name}-{machine}"] if self.separate else []

    def run(self, machine: str, text: str, patience: float = 300) -> tuple[int, str]:
        """Run commands to their end; their code and all that they said."""
        log = self.path / machine / f"log-{time.monotonic_ns()}"
        process = self.start(machine, text, log)
        try:
            code = process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{text}\ntook more than {patience:g} s:\n{log.read_text()}") from None
        said = log.read_text(errors="replace")
        log.unlink()
        return code, said

    def follow(self, block: Block) -> None:
        """Do what a block says, where it says so."""
        if block.where == "terminal":
            self.prelude = block.text
            return
        for machine in ROLES.get(block.where, [block.where]):
            if block.running:
                self.begun.append(
                    self.start(machine, block.text, self.path / machine / f"log-running-{len(self.begun)}")
                )
            else:
                code, said = self.run(machine, block.text)
                assert code == 0, f"on {machine}:\n{block.text}\n{said}\n{self.logs()}"

    def listens(self, machine: str, address: str) -> bool:
        """Whether somebody listens at ``ADDRESS:PORT`` of a page."""
        return self.run(machine, f"echo {address} | tr : / | (read at; : < /dev/tcp/$at)")[0] == 0

    def logs(self) -> str:
        """The ends of all logs, for who wonders why."""
        return "\n".join(f"== {one}\n{one.read_text(errors='replace')[-1500:]}" for one in self.path.glob("*/*log*"))

    def end(self) -> None:
        """End everything that runs here."""
        door = self.path / "server/etc/nginx/pid"  # it overwrites its environment, so that it is not found by that
        if door.exists():
            os.kill(int(door.read_text()), signal.SIGTERM)
        for _ in range(3):  # who starts others again may do so once more
            for number in marked(f"{MARK}={self.path}"):
                try:
                    os.kill(number, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for process in self.begun:
            process.wait()


def marked(mark: str) -> list[int]:
    """Processes that have ``NAME=VALUE`` in the environment that they were started with."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@contextmanager
def site(name: str, *, door: bool = False) -> Iterator[Site]:
    """Machines that are gone after the block, and all that ran on them; with a door they need nginx to be apart."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory(prefix=f"fb{name}", ignore_cleanup_errors=True)))
        made = Site(path, has_namespaces() and not (door and shutil.which("nginx") is None))
        for machine in ADDRESSES:
            for part in ("home", "etc/systemd/system", "etc/nginx/conf.d", "var", "stand-ins"):
                (path / machine / part).mkdir(parents=True)
            (path / machine / "home" / "fedbonsai").symlink_to(ROOT)
            nginx = path / machine / "etc/nginx"
            (nginx / "nginx.conf").write_text(NGINX.replace("@", str(nginx)))
            for program, text in STAND_INS.items():
                _write_program(path / machine / "stand-ins" / program, text)
        if made.separate:
            stack.enter_context(network(path.name))
        owners = [("server", "local")]
        if not made.separate:
            owners += [("server", port) for port in ("8000", "9094", "9095")]
            owners += [("device-0", "9094"), ("device-1", "9094"), ("device-0", "9099")]
        made.ports |= dict(zip(owners, free_ports(len(owners)), strict=True))
        stack.callback(made.end)
        yield made


def _write_program(path: Path, text: str) -> None:
    real = {"PROGRAMS": PROGRAMS, "PYTHON": sys.executable, "ROOT": ROOT, "NGINX": shutil.which("nginx")}
    for word, value in real.items():
        text = text.replace(f"@{word}@", str(value))
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@contextmanager
def network(name: str) -> Iterator[None]:
    """A network namespace for each machine, and one for the switch between them."""
    made = []

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for one in ("switch", *ADDRESSES):
            ip("netns", "add", f"{name}-{one}")
            made.append(f"{name}-{one}")
        ip("-n", f"{name}-switch", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"{name}-switch", "link", "set", "bridge", "up")
        for place, (machine, address) in enumerate(ADDRESSES.items()):
            inner = ("-n", f"{name}-{machine}")
            port = ("name", f"port{place}", "netns", f"{name}-switch")
            ip(*inner, "link", "add", "eth0", "type", "veth", "peer", *port)
            ip("-n", f"{name}-switch", "link", "set", f"port{place}", "master", "bridge", "up")
            ip(*inner, "address", "add", f"{address}/24", "dev", "eth0")
            ip(*inner, "link", "set", "lo", "up")
            ip(*inner, "link", "set", "eth0", "up")
        yield
    finally:
        for one in made:
            subprocess.run(["ip", "netns", "del", one], check=False)


@cache
def has_namespaces() -> bool:
    """Whether this machine lets us make networks."""
    try:
        with network(f"fb-try-{os.getpid()}"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def wait_for(ready: Callable[[], object], seconds: float = 240) -> None:
    """Wait until something has come about."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.2)
