"""docs/deploy.md is true: its commands are followed on three machines, and the result is that of the simulation."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedbonsai.experiment.build import make_method, resolve
from fedbonsai.experiment.execute import Job, execute
from fedbonsai.experiment.settings import make_experiment, read_toml
from fedbonsai.flower.loopback import QUIET
from fedbonsai.flower.worker import function, load_app
from fedbonsai.report.events import EVENTS
from tests.e2e.deployment import ROOT, Block, Site, blocks, site, wait_for

TEXT = (ROOT / "docs/deploy.md").read_text()
PAGE = blocks(TEXT)
PROGRAMS = "sudo|flwr|fedbonsai|systemctl|journalctl|ssh-keygen"
WITHIN = set(re.findall(rf"`((?:{PROGRAMS}) [^`]+)`", re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)))
"""Commands within the text."""
EXAMPLES = ROOT / "examples/deploy"


def part(*sections: str) -> list[Block]:
    return [block for block in PAGE if block.section in sections]


def follow(made: Site, block: Block) -> None:
    """Do what a block says, and have the patience of a reader whose server is not up yet."""
    made.follow(block)
    if "flower-superlink" in block.text:
        wait_for(lambda: made.listens("server", "192.0.2.10:8000"))
    if "fedbonsai-superlink" in block.text:
        wait_for(lambda: made.listens("server", "127.0.0.1:8000"))


def outcome(out: Path) -> tuple[list, dict[str, torch.Tensor]]:
    record = json.loads((out / "result.json").read_text())
    rows = [(row["stage"], row["bytes_down"], row["bytes_up"], row["test_metric"]) for row in record["rounds"]]
    return rows, load_file(out / "model.safetensors")


def simulated(app: Path, out: Path) -> tuple[list, dict[str, torch.Tensor]]:
    """What the engine local makes of an app."""
    module = load_app(app / "task.py")
    experiment = resolve(make_experiment(read_toml(app / "experiment.toml"), {"engine": "local"}))
    task = function(module, "task")()
    own = dataclasses.replace(task, clients=[function(module, "data")(client) for client in range(task.clients)])
    execute(Job(experiment, own, make_method(experiment)), out)
    return outcome(out)


def assert_equal_to_simulation(app: Path, out: Path, scratch: Path) -> None:
    rows, weights = outcome(out)
    expected_rows, expected = simulated(app, scratch / "simulated")
    assert rows == expected_rows
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def rounds_told(out: Path) -> int:
    path = out / EVENTS
    return path.read_text().count('"event": "round"') if path.exists() else 0


def test_every_command_of_the_page_stands_in_a_part_that_is_followed() -> None:
    followed = {"Install", "The app", "In a lab, without TLS", *REAL, "Train", "When something dies"}
    assert {block.section for block in PAGE} == followed
    assert len(PAGE) == 15
    assert {*LATER, LAB, *OF_SYSTEMD, *NAMES} == {" ".join(one.split()) for one in WITHIN}


@pytest.mark.parametrize("unit", sorted(EXAMPLES.glob("*.service")), ids=lambda path: path.stem)
def test_systemd_knows_all_that_services_say(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/opt/fedbonsai/bin/[\w-]+", "/bin/true", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "/fedbonsai-" not in done.stderr


def test_flower_is_kept_quiet_by_all_services() -> None:
    lines = [line.split("=") for line in (EXAMPLES / "flower.env").read_text().splitlines() if line[0] != "#"]
    said = dict(lines)
    assert said.items() <= QUIET.items()
    assert {name for name in QUIET if name.startswith("FLWR") and "POLL" not in name} <= said.keys()
    units = sorted(EXAMPLES.glob("*.service"))
    assert len(units) == 4
    for unit in units:
        assert "EnvironmentFile=/etc/fedbonsai/flower.env\n" in unit.read_text()


@pytest.mark.parametrize("unit", sorted(EXAMPLES.glob("*.service")), ids=lambda path: path.stem)
def test_services_may_do_little_and_never_speak_without_tls(unit: Path) -> None:
    text = unit.read_text()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "StateDirectoryMode=0700", "User=fedbonsai"):
        assert f"\n{line}\n" in text
    assert "--insecure" not in text
    assert re.findall(r"--host \S+", text) in ([], ["--host 127.0.0.1"])


@pytest.mark.slow
def test_in_a_lab_the_result_is_that_of_the_simulation(tmp_path: Path) -> None:
    with site("lab") as lab:
        for block in part("Install", "The app", "In a lab, without TLS"):
            follow(lab, block)
        assert_equal_to_simulation(lab.home("server") / "app", lab.home("server") / "runs/lab", tmp_path)
        assert "TLS disabled" in (lab.path / "server/log-running-0").read_text()
        code, said = lab.run("server", LAB)
        assert code == 0, said


LAB = "fedbonsai watch ~/runs/lab"
LATER = (
    "sudo /opt/fedbonsai/bin/fedbonsai watch /var/lib/fedbonsai-server/runs/first",
    "flwr list fed",
    "flwr log RUN-ID fed --show",
    "flwr supernode list fed",
    "flwr supernode unregister NODE-ID fed",
    "ssh-keygen -t ecdsa -b 384",
    "sudo systemctl restart fedbonsai-worker",
)
NAMES = ("fedbonsai worker", "fedbonsai flower certs", "flwr run --stream")
"""Said of commands that are followed elsewhere on the page."""

OF_SYSTEMD = ("systemctl status fedbonsai-worker", "journalctl -u UNIT")
REAL = ("For real: the server", "For real: the devices")
RUN = "var/fedbonsai-server/runs/first"


@pytest.fixture(scope="module")
def fed():
    """The deployment of the page, after a run in which a device was killed."""
    with site("fed", door=True) as made:
        for block in part("Install", "The app", *REAL, "Train", "When something dies"):
            if "nginx" in block.text and not made.separate:
                continue
            if "systemctl kill" in block.text:
                wait_for(lambda: rounds_told(made.path / "server" / RUN) >= 1)
            follow(made, block)
            if "systemctl kill" in block.text:
                wait_for(lambda: made.begun[-1].poll() is not None)
                assert not (made.path / "server" / RUN / "result.json").exists()
        yield made


@pytest.mark.slow
def test_a_device_is_killed_and_the_result_is_that_of_the_simulation(fed: Site, tmp_path: Path) -> None:
    log = (fed.path / "device-1/log-fedbonsai-supernode").read_text()
    assert "Failed to activate SuperNode" in log  # it was refused for a while, and let back
    assert_equal_to_simulation(fed.home("server") / "app", fed.path / "server" / RUN, tmp_path)


@pytest.mark.slow
def test_superlink_and_worker_are_killed_and_the_run_goes_on(fed: Site, tmp_path: Path) -> None:
    [train] = part("Train")
    fed.follow(dataclasses.replace(train, text=train.text.replace("runs/first", "runs/second")))
    out = fed.path / "server" / RUN.replace("first", "second")
    wait_for(lambda: rounds_told(out) >= 1)
    assert fed.run("server", "sudo systemctl kill --signal=KILL fedbonsai-superlink")[0] == 0
    wait_for(lambda: rounds_told(out) >= 2)
    assert fed.run("device-0", "sudo systemctl kill --signal=KILL fedbonsai-worker")[0] == 0
    wait_for(lambda: (out / "result.json").exists())
    assert_equal_to_simulation(fed.home("server") / "app", out, tmp_path)


STRANGER = """
flower-supernode --superlink 192.0.2.10:8443 --root-certificates ~/ca.crt --port 9099 --max-retries 2 \\
  --node-config "worker='$HOME/worker'" """


@pytest.mark.slow
def test_strangers_are_refused(fed: Site) -> None:
    code, said = fed.run("device-0", STRANGER)
    assert code != 0
    assert "SuperNode authentication is enabled" in said
    code, said = fed.run(
        "device-0", "fedbonsai flower certs ~/other; " + STRANGER + "--auth-supernode-private-key ~/other/node-0"
    )
    assert code != 0
    assert "Failed to activate SuperNode" in said


@pytest.mark.slow
def test_another_servers_certificate_is_named(fed: Site) -> None:
    code, said = fed.run(
        "device-0", "fedbonsai flower certs ~/false; " + STRANGER.replace("~/ca.crt", "~/false/ca.crt")
    )
    assert code != 0
    assert "CERTIFICATE_VERIFY_FAILED" in said


CURL = (
    "curl --silent --cacert ~/ca.crt --path-as-is --output /dev/null --write-out '%{{http_code}}' "
    "{options} https://192.0.2.10:8443{path}"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        ("/v1/fleet/activate-node", "-X POST", {"415"}),
        ("/v1/fleet/activate-node", "", {"403"}),
        ("/v1/control/list-runs", "-X POST", {"404"}),
        ("/v1/runtime/acquire-task", "-X POST", {"404"}),
        ("/v1/fleet/../control/list-runs", "-X POST", {"404"}),
        ("/v1/fleet/%2e%2e/control/list-runs", "-X POST", {"404"}),
        ("/v1/fleet/..%2fcontrol/list-runs", "-X POST", {"404"}),
        ("/v1/fleet/%252e%252e/control/list-runs", "-X POST", {"404"}),
        ("//v1/control/list-runs", "-X POST", {"404"}),
        ("/health", "", {"404"}),
        ("/v1/fleet/push-object", "-X POST --data-binary @$HOME/large", {"413"}),
    ],
)
def test_the_door_lets_nothing_in_but_devices(fed: Site, path: str, options: str, code: set[str]) -> None:
    if not fed.separate:
        pytest.skip("needs nginx and network namespaces")
    returned, said = fed.run("device-0", "truncate -s 20M ~/large; " + CURL.format(path=path, options=options))
    assert returned == 0, said
    assert said.strip() in code


@pytest.mark.slow
def test_the_superlink_itself_cannot_be_reached(fed: Site) -> None:
    if not fed.separate:
        pytest.skip("needs nginx and network namespaces")
    returned, _ = fed.run("device-0", "curl --silent --insecure --max-time 5 https://192.0.2.10:8000/health")
    assert returned == 7  # nobody listens
    returned, said = fed.run("server", "curl --silent --cacert /etc/fedbonsai/ca.crt https://127.0.0.1:8000/health")
    assert returned == 0, said


@pytest.mark.slow
def test_keys_and_sockets_are_closed_to_others(fed: Site) -> None:
    for path, mode in {
        "server/etc/fedbonsai/server.key": 0o600,
        "device-0/etc/fedbonsai/node.key": 0o600,
        "device-0/var/fedbonsai-worker": 0o700,
        "device-0/var/fedbonsai-worker/socket": 0o600,
        "device-0/var/fedbonsai-worker/secret": 0o600,
        "server/var/fedbonsai-superlink": 0o700,
    }.items():
        assert (fed.path / path).stat().st_mode & 0o777 == mode, path


@pytest.mark.slow
@pytest.mark.parametrize("command", LATER)
def test_commands_within_the_text_work(fed: Site, command: str) -> None:
    if command.startswith("ssh-keygen") and shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    machine = "device-0" if "systemctl" in command else "server"
    listed = json.loads(fed.run("server", "flwr list fed --format json | sed -n '/^{/,$p'")[1])
    nodes = json.loads(fed.run("server", "flwr supernode list fed --format json | sed -n '/^{/,$p'")[1])
    ids = {"RUN-ID": str(listed["runs"][0]["run-id"]), "NODE-ID": str(nodes["nodes"][0]["node-id"])}
    for word, number in ids.items():
        command = command.replace(word, number)
    if command.startswith("ssh-keygen"):
        command += " -q -N '' -f ~/made && flwr supernode register ~/made.pub fed"
    code, said = fed.run(machine, command)
    assert code == 0, said
    if "--show" in command:
        assert "round 4 (train)" in said or "round 2: client 1 dropped" in said
    if "unregister" in command:
        _, left = fed.run("server", "flwr supernode list fed")
        assert ids["NODE-ID"][:8] not in left
