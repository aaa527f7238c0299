"""A certificate authority of the tests' own, and certificates of it, made with OpenSSL's command.

authority = Authority(directory)
front = authority.issue("front", "DNS:front.example.com", "IP:127.0.0.1")
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from .world import program, run

CONFIGURATION = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[end]
basicConstraints = critical,CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[ca]
default_ca = here
[here]
database = {directory}/index
new_certs_dir = {directory}
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
rand_serial = yes
unique_subject = no
email_in_dn = yes
default_md = sha256
policy = any
x509_extensions = end
copy_extensions = copy
[any]
commonName = optional
emailAddress = optional
"""
NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key."""

    certificate: Path
    key: Path
    both: Path
    """One in a file with the other, as Courier's TLS_CERTFILE may be."""


class Authority:
    """A certificate authority in a directory; `ca` is its certificate, the one that clients trust."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = directory / "ca.pem"
        (directory / "openssl.cnf").write_text(CONFIGURATION.format(directory=directory))
        (directory / "index").touch()
        self._request("ca", "/CN=the tests' own authority", "-x509", "-extensions", "authority", "-days", "10")

    def issue(
        self, name: str, *names: str, subject: str = "", start: timedelta = -DAY, end: timedelta = 10 * DAY
    ) -> Certificate:
        """A certificate with these alternative names, valid from `start` to `end`, both counted from now."""
        alternatives = ["-addext", f"subjectAltName={','.join(names)}"] if names else []
        self._request(name, subject or f"/CN={name}", *alternatives)
        now = datetime.now(timezone.utc)
        dates = ["-startdate", _asn1_time(now + start), "-enddate", _asn1_time(now + end)]
        files = ["-in", self._file(name, "csr"), "-out", self._file(name, "pem")]
        self._openssl("ca", "-batch", "-notext", *dates, *files)
        return self._certificate(name)

    def self_signed(self, name: str, *names: str) -> Certificate:
        """A certificate that no authority has signed."""
        self._request(name, f"/CN={name}", "-x509", "-days", "10", "-addext", f"subjectAltName={','.join(names)}")
        return self._certificate(name)

    def _request(self, name: str, subject: str, *options: str) -> None:
        out = self._file(name, "pem" if "-x509" in options else "csr")
        files = ["-keyout", self._file(name, "key"), "-out", out]
        self._openssl("req", "-new", *NEW_KEY, "-subj", subject, *options, *files)

    def _certificate(self, name: str) -> Certificate:
        certificate, key, both = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "both"))
        certificate.chmod(0o644)
        both.touch(0o600)
        both.write_text(certificate.read_text() + key.read_text())
        return Certificate(certificate, key, both)

    def _file(self, name: str, kind: str) -> str:
        return str(self.directory / f"{name}.{kind}")

    def _openssl(self, command: str, *arguments: str) -> None:
        run([program("openssl"), command, "-config", str(self.directory / "openssl.cnf"), *arguments])

    def trusting(self) -> ssl.SSLContext:
        """What a client needs that trusts nobody else."""
        return ssl.create_default_context(cafile=str(self.ca))


def _asn1_time(moment: datetime) -> str:
    return moment.strftime("%Y%m%d%H%M%SZ")
