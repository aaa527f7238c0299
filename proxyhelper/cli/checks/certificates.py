"""The certificates that clients are shown, and their keys: would they be taken, and by whom?"""

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import tls
from ...activation import is_ip
from ...settings import ConfigurationError, Settings
from ..activators import Entry
from ..console import Site
from . import Finding
from .files import OTHERS_WRITE, judge

DAY = 86400
SOON = 14 * DAY
STARTTLS = {"imap": "IMAPDSTARTTLS", "pop3": "POP3_STARTTLS"}


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
    wanted = site.environment.get(f"{upper}_STARTTLS", settings.exported.get(name, ""))[:1] in ("y", "Y")
    usable = _is_usable(settings)
    if (wanted or any(entry.wraps for entry in entries)) and "" not in suffixes(settings.certificate):
        who = f"{name}=YES" if wanted else "an entry says PROXY_TLS_WRAP=1"
        where = f"{settings.certificate} is not there" if settings.certificate else "TLS_CERTFILE names none"
        remedy = f"name a certificate in TLS_CERTFILE and its key in TLS_PRIVATE_KEYFILE, or set {name}=NO"
        what = f"{who}, but no certificate ({where}): no TLS for {upper} clients"
        yield Finding("error", what, remedy, setting="TLS_CERTFILE")
    if settings.tls_required and not (usable and wanted) and not _is_behind_tls(settings, entries, usable):
        what = f"{upper}_TLS_REQUIRED is on, and nothing here serves TLS: nobody can log in"
        remedy = (
            f"set TLS_CERTFILE and {name}=YES, or have TLS done in front, which says {upper}_TLS=1 in the environment"
        )
        yield Finding("error", what, remedy, setting=f"{upper}_TLS_REQUIRED")


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


@dataclass(frozen=True)
class Certificate:
    """`names` that it is for; `begins` and `ends` in seconds since 1970."""

    names: list[str]
    begins: float
    ends: float
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
            self_signed=fields["subject"] == fields["issuer"],
        )

    def covers(self, name: str) -> bool:
        """Whether it is for a host name or address; `*` stands for the first part of a name (RFC 9525 section 6.3)."""
        wildcard = "*." + name.partition(".")[2]
        return any(one.lower() in (name.lower(), wildcard.lower()) for one in self.names)

    def __str__(self) -> str:
        return f"for {', '.join(self.names) or 'no name'}, valid from {_day(self.begins)} to {_day(self.ends)}"


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
