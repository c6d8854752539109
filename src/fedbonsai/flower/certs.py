"""Certificate and keys of a test deployment: an authority, its one server, and a key for each device."""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedbonsai.core.errors import ConfigError

DAYS = 90
"""How long a certificate is good for; afterwards a new directory is made."""

MOST_NODES = 10_000

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
LONGEST_NAME = 253
"""A name on the network is made of labels with dots between them."""

ALWAYS = ("localhost", "127.0.0.1")
"""Names of every server, for what runs beside it."""

AUTHORITY, CERTIFICATE, KEY, NODE = "ca.crt", "server.crt", "server.key", "node-{}"


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        directory: Where.
        hosts: Names and addresses of the server.
        nodes: Number of devices.
        until: When the certificate ends.
    """

    directory: Path
    hosts: tuple[str, ...]
    nodes: int
    until: datetime


def make_certificates(directory: Path, hosts: Sequence[str], nodes: int) -> Made:
    """Make the files of a deployment; private ones can be read by their owner alone.

    ``ca.crt`` is what everybody trusts, ``server.crt`` and ``server.key`` are the server's, ``node-0`` and
    ``node-0.pub`` the first device's. The authority's own key is thrown away: nobody can sign anything with it later.

    Args:
        directory: Where; it must be empty or not be there.
        hosts: Names and addresses by which devices reach the server; ``localhost`` and ``127.0.0.1`` are added.
        nodes: Number of devices, 1 to 10000.

    Raises:
        ConfigError: There is something in the directory, it cannot be written, or a host or number cannot be used.
    """
    if not 1 <= nodes <= MOST_NODES:
        raise ConfigError(f"nodes must be 1 to {MOST_NODES}, got {nodes}")
    names = tuple(dict.fromkeys([*hosts, *ALWAYS]))
    now = datetime.now(UTC).replace(microsecond=0)
    until = now + timedelta(days=DAYS)
    authority, server = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root = _authority(authority, now, until)
    private = {KEY: _pem(server)}
    public = {AUTHORITY: root.public_bytes(serialization.Encoding.PEM)}
    signed = _server(server.public_key(), names, root).sign(authority, hashes.SHA384())
    public[CERTIFICATE] = signed.public_bytes(serialization.Encoding.PEM)
    for node in range(nodes):
        key = ec.generate_private_key(ec.SECP384R1())
        private[NODE.format(node)] = _openssh(key)
        public[f"{NODE.format(node)}.pub"] = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    _write(directory, private, public)
    return Made(directory, names, nodes, until)


def _write(directory: Path, private: dict[str, bytes], public: dict[str, bytes]) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory} must be empty, keys are not written over; choose another directory")
        for files, mode in ((private, 0o600), (public, 0o644)):
            for name, data in files.items():
                handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
    except OSError as error:
        raise ConfigError(f"{directory} must be a directory that can be written; {error}") from error


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedbonsai test authority")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of devices differ
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: ec.EllipticCurvePublicKey, hosts: Sequence[str], authority: x509.Certificate
) -> x509.CertificateBuilder:
    signer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedbonsai test server")]))
        .issuer_name(authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([_alternative(one) for one in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > LONGEST_NAME or not all(LABEL.fullmatch(label) for label in labels):
        raise ConfigError(f"a host must be a name or an address, without port, got {host!r}")
    return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The only form of key that a SuperNode takes."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
