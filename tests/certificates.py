"""A certificate authority for tests: certificates that are right, expired, for another name, or of somebody else."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SEMIEVOL_TLS_CERT_FILE": str(self.certificate), "SEMIEVOL_TLS_KEY_FILE": str(self.key)}


class Authority:
    """Its files lie in `directory`; `file` is its own certificate."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.file = directory / f"{name}.crt"
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.file.write_bytes(_pem(self._builder(self._name, self._key, -1, 1).add_extension(basic, critical=True), self._key))

    def issue(self, name: str, *, hosts: tuple[str, ...] = ("localhost", "127.0.0.1"), expired: bool = False) -> Pair:
        """A certificate for these hosts, valid today, or until yesterday."""
        key = ec.generate_private_key(ec.SECP256R1())
        first, last = (-3, -1) if expired else (-1, 1)
        builder = self._builder(_named(name), key, first, last)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pair.certificate.write_bytes(_pem(builder, self._key))
        pair.key.write_bytes(private)
        return pair

    def _builder(self, subject: x509.Name, key: Any, first_day: int, last_day: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first_day * _DAY)
            .not_valid_after(now + last_day * _DAY)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(builder: x509.CertificateBuilder, key: Any) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
