"""The certificates that clients are shown, and their keys: would they be taken, and by whom?"""

import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ... import tls
from ...activation import is_ip
from ...routing import names_of_this_host
from ...settings import ConfigurationError, Settings, is_true
from ..activators import Entry
from ..console import Site
from . import Finding
from .files import OTHERS_WRITE, judge

DAY = 86400
SOON = 14 * DAY
STARTTLS = {"imap": "IMAPDSTARTTLS", "pop3": "POP3_STARTTLS"}
PLAIN_PORTS = (143, 110)
NAME_ONE = "name a certificate in TLS_CERTFILE and its key in TLS_PRIVATE_KEYFILE"
UNKNOWN_ISSUER = (20, 21)
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY and …_UNABLE_TO_VERIFY_LEAF_SIGNATURE (openssl's x509_vfy.h)."""
FLIGHTS = 3
"""What a client says in a handshake, at most (RFC 5246 section 7.3, RFC 8446 section 2)."""


def examine(site: Site, settings: "dict[str, Settings]", entries: "list[Entry]") -> Iterator[Finding]:
    findings: list[Finding] = []
    for one in settings.values():
        of_protocol = [entry for entry in entries if entry.protocol == one.protocol]
        findings += _service(site, one, of_protocol)
        for suffix in suffixes(one.certificate):
            findings += _pair(one, suffix)
    yield from dict.fromkeys(findings)  # once, where both protocols have the same files


def suffixes(certificate: str) -> "list[str]":
    """Of the files of certificates that are there: "" for that of all names, then names and addresses."""
    if not certificate:
        return []
    path = Path(certificate)
    try:
        names = sorted(file.name for file in path.parent.iterdir())
    except OSError:
        return []
    beginning = f"{path.name}."
    found = [name[len(beginning) :] for name in names if name.startswith(beginning)]
    special = [suffix for suffix in found if is_ip(suffix) or (tls.is_name(suffix) and "." in suffix)]
    return [*([""] if path.name in names else []), *special]


def _service(site: Site, settings: Settings, entries: "list[Entry]") -> Iterator[Finding]:
    """Is TLS served, where it should be?"""
    upper = settings.protocol.upper()
    name = STARTTLS[settings.protocol]
    wanted = _wants_starttls(settings, site.environment)
    usable = _is_usable(settings)
    missing = _missing(settings)
    if missing and wanted:
        what = f"{name}=YES, but no certificate ({missing}): STARTTLS is not offered to {upper} clients"
        yield Finding("error", what, f"{NAME_ONE}, or set {name}=NO", setting="TLS_CERTFILE")
    if missing and any(entry.wraps for entry in entries):
        what = f"an entry says PROXY_TLS_WRAP=1, but no certificate ({missing}): no {upper} client is served there"
        yield Finding("error", what, f"{NAME_ONE}, or take that entry away", setting="TLS_CERTFILE")
    if settings.tls_required and not (usable and wanted) and not _is_behind_tls(settings, entries, usable):
        what = f"{upper}_TLS_REQUIRED is on, and nothing here serves TLS: nobody can log in"
        remedy = (
            f"set TLS_CERTFILE and {name}=YES, or have TLS done in front, which says {upper}_TLS=1 in the environment"
        )
        yield Finding("error", what, remedy, setting=f"{upper}_TLS_REQUIRED")
    elif usable and not missing:
        yield from _without_starttls(site, settings, entries)


def _wants_starttls(settings: Settings, environment: "Mapping[str, str]") -> bool:
    in_files = settings.exported.get(STARTTLS[settings.protocol], "")
    return environment.get(f"{settings.protocol.upper()}_STARTTLS", in_files)[:1] in ("y", "Y")


def _missing(settings: Settings) -> str:
    """Which of certificate and key is not there, or ""."""
    if not settings.certificate:
        return "TLS_CERTFILE names none"
    paths = tls.certificate_for(settings, "")
    return next((f"{path} is not there" for path in paths if not os.path.exists(path)), "")


def _without_starttls(site: Site, settings: Settings, entries: "list[Entry]") -> Iterator[Finding]:
    """Where the certificate would serve, and does not."""
    name = STARTTLS[settings.protocol]
    for entry in entries:
        environment = {**site.environment, **entry.environment}
        in_front = is_true(environment.get(f"{settings.protocol.upper()}_TLS", ""))
        if entry.port not in PLAIN_PORTS or entry.tls or in_front or _wants_starttls(settings, environment):
            continue
        what = f"a certificate is there, but {name} is not YES: no STARTTLS on port {entry.port}"
        if settings.tls_required:
            what += ", and nobody can log in there"
        yield Finding("error" if settings.tls_required else "warning", what, f"set {name}=YES", setting=name)


def _is_usable(settings: Settings) -> bool:
    """What other settings spoil is said where they are."""
    try:
        tls.server_context(settings, "")
    except ConfigurationError as error:
        return error.setting != "TLS_CERTFILE" or _is_hidden(*tls.certificate_for(settings, ""))
    return True


def _is_hidden(*paths: str) -> bool:
    """Whether only root can say more."""
    return os.geteuid() != 0 and not all(os.access(path, os.R_OK) for path in paths)


def _is_behind_tls(settings: Settings, entries: "list[Entry]", usable: bool) -> bool:
    """Whether clients come with TLS from the first byte, on some port at least."""
    in_front = f"{settings.protocol.upper()}_TLS"
    return settings.tls or any(
        (entry.wraps and usable) or in_front in entry.environment or (entry.tls and not entry.wraps)
        for entry in entries
    )


def _pair(settings: Settings, suffix: str) -> Iterator[Finding]:
    """A certificate and its key."""
    certificate, key = tls.certificate_for(settings, suffix)
    if key != certificate:
        yield from judge(Path(certificate), OTHERS_WRITE, "others may write it")
    yield from judge(Path(key), stat.S_IRWXO, "it holds a private key, and others may read it")
    try:
        tls.server_context(settings, suffix)
    except ConfigurationError as error:
        if error.setting == "TLS_CERTFILE":
            remedy = (
                "put the certificate, those of its authorities and its key there: in PEM form, the key without password"
            )
            if _is_hidden(certificate, key):
                remedy = "run this command as root"
            yield Finding("error", str(error), remedy, certificate, setting="TLS_CERTFILE")
    try:
        found = Certificate.read(certificate)
    except (OSError, ValueError):
        return  # has been said
    yield from _certificate(found, certificate, suffix)
    if not found.self_signed and found.issuer not in _subjects(certificate) and _has_unknown_issuer(settings, suffix):
        what = f"issued by {found.issuer_name}, which is neither in this file nor in the system's store"
        remedy = "put the certificates of the authorities in between behind it (an ACME client's fullchain.pem)"
        yield Finding("warning", what, remedy, certificate)
    ours = names_of_this_host(settings)
    if not suffix and not any(found.covers(name) for name, _ in ours):
        host = ", ".join(f"{name} ({source})" for name, source in ours)
        what = f"the certificate is for {found.for_whom}; this host is {host}"
        yield Finding("note", what, "clients have to be told a name that is in the certificate", certificate)


def _subjects(path: str) -> "list[object]":
    """Of the authorities in a PEM file."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError:
        return []
    return [authority["subject"] for authority in context.get_ca_certs()]


def _has_unknown_issuer(settings: Settings, suffix: str) -> bool:
    """Whether a client with the system's store misses an issuer in what it is shown."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_default_certs()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server)
    try:
        server = tls.Channel(tls.server_context(settings, suffix), server_side=True)
        for _ in range(FLIGHTS):
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                server.shake_hands(to_server.read())
                to_client.write(server.outgoing())
    except ssl.SSLCertVerificationError as error:
        return error.verify_code in UNKNOWN_ISSUER
    except (ConfigurationError, OSError, tls.HandshakeFailed):
        pass  # something else is wrong
    return False


@dataclass(frozen=True)
class Certificate:
    """`names` that it is for; `begins` and `ends` in seconds since 1970; `issuer` as SSLSocket.getpeercert() has it."""

    names: list[str]
    begins: float
    ends: float
    issuer: "tuple[tuple[tuple[str, str], ...], ...]"
    self_signed: bool

    @classmethod
    def read(cls, path: str) -> "Certificate":
        """The first one in a PEM file. Raises OSError, ValueError."""
        import ssl

        fields = tls.decode_certificate(path)
        names = [value for kind, value in fields.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
        common = [value for rdn in fields["subject"] for name, value in rdn if name == "commonName"]
        return cls(
            names=names or common,
            begins=ssl.cert_time_to_seconds(fields["notBefore"]),
            ends=ssl.cert_time_to_seconds(fields["notAfter"]),
            issuer=fields["issuer"],
            self_signed=fields["subject"] == fields["issuer"],
        )

    def covers(self, name: str) -> bool:
        """Whether it is for a host name or address; `*` stands for the first part of a name (RFC 9525 section 6.3)."""
        wildcard = "*." + name.partition(".")[2]
        return any(one.lower() in (name.lower(), wildcard.lower()) for one in self.names)

    @property
    def for_whom(self) -> str:
        return ", ".join(self.names) or "no name"

    @property
    def issuer_name(self) -> str:
        """Its common name, or what else it ends with."""
        fields = [field for rdn in self.issuer for field in rdn]
        return dict(fields).get("commonName") or (fields[-1][1] if fields else "nobody")

    def __str__(self) -> str:
        return f"for {self.for_whom}, valid from {_day(self.begins)} to {_day(self.ends)}"


def _certificate(certificate: Certificate, path: str, suffix: str) -> Iterator[Finding]:
    now = time.time()
    renew = "renew it; the next connection has the new one"
    if certificate.ends < now:
        yield Finding("error", f"the certificate expired on {_day(certificate.ends)}", renew, path)
    elif certificate.ends < now + SOON:
        yield Finding("warning", f"the certificate expires on {_day(certificate.ends)}", renew, path)
    if certificate.begins > now:
        what = f"the certificate is not valid before {_day(certificate.begins)}"
        yield Finding("error", what, "is this host's clock right?", path)
    if certificate.self_signed:
        what = "the certificate is self-signed: mail programs warn their users, or go away"
        yield Finding("warning", what, "have it signed by an authority that they know", path)
    if suffix and not certificate.covers(suffix) and not is_ip(suffix):
        what = f"it is shown to those who ask for {suffix}, and the certificate is not for that name"
        yield Finding("warning", what, f"name the file for one of: {', '.join(certificate.names)}", path)
    yield Finding("ok", str(certificate), "", path)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
