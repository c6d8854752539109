"""Who may do what on a device and on the wire: certificates, keys, sockets, secrets, and what is told to others."""

import os
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedbonsai.core.errors import ClientError, ConfigError
from fedbonsai.experiment.config import Experiment
from fedbonsai.flower import loopback
from fedbonsai.flower.certs import DAYS, make_certificates
from fedbonsai.flower.pipe import HELLO, Home, ask, listening


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    make_certificates(folder, ["192.0.2.10", "server.example"], 2)
    return folder


def test_private_keys_are_for_their_owner(keys):
    modes = {one.name: mode(one) for one in keys.iterdir()}
    assert modes == {
        "ca.crt": 0o644, "server.crt": 0o644, "server.key": 0o600,
        "node-0": 0o600, "node-0.pub": 0o644, "node-1": 0o600, "node-1.pub": 0o644,
    }  # fmt: skip
    assert mode(keys) == 0o700


def test_nothing_is_good_for_long(keys):
    for name in ("ca.crt", "server.crt"):
        found = x509.load_pem_x509_certificate((keys / name).read_bytes())
        left = found.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=DAYS - 1) < left <= timedelta(days=DAYS)


def test_each_device_has_a_key_of_its_own_on_flowers_curve(keys):
    numbers = set()
    for node in range(2):
        private = load_ssh_private_key((keys / f"node-{node}").read_bytes(), None)
        public = load_ssh_public_key((keys / f"node-{node}.pub").read_bytes())
        assert isinstance(public.curve, ec.SECP384R1)
        assert private.public_key().public_numbers() == public.public_numbers()
        numbers.add(public.public_numbers())
    assert len(numbers) == 2


def handshake(keys, trusted, name):
    """Greet a server that has the keys, as a device would."""
    server, client = socket.socketpair()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(keys / "server.crt", keys / "server.key")
    ours = ssl.create_default_context(cafile=trusted / "ca.crt")
    ours.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of later Pythons

    def answer():
        try:
            theirs.wrap_socket(server, server_side=True).close()
        except OSError:
            server.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        ours.wrap_socket(client, server_hostname=name).close()
    finally:
        client.close()
        thread.join()


@pytest.mark.parametrize("name", ["192.0.2.10", "server.example", "127.0.0.1", "localhost"])
def test_a_server_is_known_by_all_its_names(keys, name):
    handshake(keys, keys, name)


@pytest.mark.parametrize("name", ["192.0.2.11", "other.example"])
def test_a_server_is_known_by_no_other_name(keys, name):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(keys, keys, name)


def test_another_authority_is_not_trusted(keys, tmp_path):
    make_certificates(tmp_path / "other", ["192.0.2.10"], 1)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(keys, tmp_path / "other", "192.0.2.10")


def test_keys_are_not_written_over(keys):
    before = (keys / "server.key").read_bytes()
    with pytest.raises(ConfigError, match="not written over"):
        make_certificates(keys, [], 1)
    assert (keys / "server.key").read_bytes() == before


@pytest.mark.parametrize("host", ["", "a b", "server:8000", "-", "https://server", "ä.example", "a" * 300, "*.example"])
def test_a_host_is_a_name_or_an_address(tmp_path, host):
    with pytest.raises(ConfigError, match="a host must be"):
        make_certificates(tmp_path / "keys", [host], 1)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("nodes", [0, -1, 10_001])
def test_the_number_of_devices_is_bounded(tmp_path, nodes):
    with pytest.raises(ConfigError, match="nodes must be 1 to 10000"):
        make_certificates(tmp_path / "keys", [], nodes)


def test_socket_and_secret_are_for_their_owner(tmp_path):
    old = os.umask(0)
    try:
        with listening(Home(tmp_path / "w")):
            assert mode(tmp_path / "w") == 0o700
            assert mode(tmp_path / "w" / "socket") == 0o600
            assert mode(tmp_path / "w" / "secret") == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize("open_to", [0o750, 0o701, 0o777])
def test_a_directory_that_others_may_enter_is_refused(tmp_path, open_to):
    (tmp_path / "w").mkdir()
    (tmp_path / "w").chmod(open_to)
    with pytest.raises(ConfigError, match="closed to others"):
        Home(tmp_path / "w").make()


def test_a_wrong_secret_is_refused_on_both_sides(tmp_path):
    home = Home(tmp_path / "w")
    with listening(home) as listener:
        refused = []

        def accept():
            for _ in range(2):
                try:
                    listener.accept()
                except (AuthenticationError, OSError, EOFError) as error:
                    refused.append(error)

        thread = threading.Thread(target=accept)
        thread.start()
        with pytest.raises(AuthenticationError):
            Client(str(home.socket), family="AF_UNIX", authkey=b"guessed")
        home.secret.write_bytes(b"another")
        with pytest.raises(ClientError, match="must be running"):
            ask(home, HELLO, most=1000, patience=5.0, restart=False)
        thread.join()
    assert len(refused) == 2


def test_flower_tells_nobody_of_a_federation_on_this_machine(tmp_path, monkeypatch):
    told = {}
    start = loopback.subprocess.Popen

    def watched(command, *, env, **settings):
        told[tuple(command)] = env
        return start(["true"], env=env, **settings)

    monkeypatch.setattr(loopback.subprocess, "Popen", watched)
    monkeypatch.setattr(loopback.Processes, "wait", lambda self, ready: None)
    experiment = Experiment(clients=2, rounds=1, cohort=2)
    with loopback.federation(tmp_path, experiment, [[0], [1]], loopback.Source()) as processes:
        processes.start("flwr-run", ["flwr", "run"])
    assert len(told) == 6  # a SuperLink, two workers, two SuperNodes, the run
    for environment in told.values():
        assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
