"""The activators' entries: do they start the helper, can it read its files there, can the local server run?"""

import grp
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator

from ... import local, privileges, tls
from ...activation import Address
from ...backend import Way
from ...dialogue.greetings import greeting
from ...failures import Failure
from ...networks import Networks
from ...proxy_protocol import version2
from ...settings import COMMON_FILE, MAIN_FILES, ConfigurationError, Settings, is_true, load
from ...text import words
from ..activators import Entry
from ..console import Site
from . import Finding
from .accounts import Survey
from .certificates import suffixes
from .files import userdb_files
from .hearing import Heard, hear

START_SECONDS = 10
TLS_PORTS = (993, 995)
CERTIFICATE_REQUIRED = "certificate required"
"""The alert of RFC 8446 section 6.2."""


def examine(site: Site, entries: "list[Entry]", survey: Survey, settings: "dict[str, Settings]") -> Iterator[Finding]:
    for entry in entries:
        findings = [*_settings(site, entry), *_clear(entry), *_process(site, entry), *_local_server(entry, survey)]
        yield from findings
        if entry.protocol in settings:
            yield from _listener(site, entry, bool(findings))
    yield from _rivals(entries)
    for protocol in settings:
        if not any(entry.protocol == protocol for entry in entries):
            what = f"nothing on this host starts proxyhelper-{protocol}"
            yield Finding("note", what, f"proxyhelper entry xinetd, systemd or couriertcpd --{protocol}")


def _listener(site: Site, entry: Entry, is_broken: bool) -> Iterator[Finding]:
    """Is it the helper that answers where the entry says?"""
    if entry.waits:
        what = "it gives the helper the listening socket in place of a connection"
        yield _finding(entry, "error", what, "wait = no (xinetd), nowait (inetd)")
    elif entry.port:
        try:
            settings = load(entry.protocol, _environment(site, entry))
        except ConfigurationError as error:
            yield _finding(entry, "error", f"with its environment the service is closed: {error}", "mend it")
            return
        address = entry.address or "127.0.0.1"
        where = f"port {entry.port} of {address}"
        if settings.proxy_protocol and not _is_in(settings.proxy_protocol_from, address):
            what = f"{where} is not tried: PROXY_PROTOCOL_FROM does not name {address}"
            yield _finding(entry, "note", what, "")
            return
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            heard = hear(entry.protocol, (family, (address, entry.port)), START_SECONDS, _way(entry, settings))
        except OSError as error:
            if settings.verify_peer == "requirepeer" and CERTIFICATE_REQUIRED in words(error):
                yield _finding(entry, "ok", f"{where} asks for a client certificate", "")
                return
            remedy = f"start {entry.activator}, or let it read this entry"
            yield _finding(entry, "warning", f"nothing answers on {where}: {words(error)}", remedy)
            return
        if not is_broken:
            yield _judge(entry, heard, _greetings(entry.protocol, settings, address), where)


def _judge(entry: Entry, heard: Heard, expected: "list[bytes]", where: str) -> Finding:
    if heard.greeting and heard.greeting not in expected:
        shown = heard.greeting[:80].decode(errors="backslashreplace").strip()
        return _finding(entry, "error", f"not the helper answers on {where}: {shown}", "stop what listens there")
    if heard.no_tls:
        remedy = "the certificates' section may say more, and the helper's log does"
        return _finding(entry, "error", f"no TLS on {where}: {heard.no_tls}", remedy)
    agreed = f" with {heard.agreed}" if heard.agreed else ""
    return _finding(entry, "ok", f"{entry.activator} serves {entry.service.upper()} on {where}{agreed}", "")


def _environment(site: Site, entry: Entry) -> "dict[str, str]":
    """The helper's, as far as the entry says it."""
    return {"PROXYHELPER_CONFDIR": site.directory, **entry.environment}


def _way(entry: Entry, settings: Settings) -> Way:
    """As clients come, and with STARTTLS, where it should be."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    mode = "yes" if entry.tls else "starttls" if settings.starttls else "no"
    return Way(mode, context, header=version2(Address(), Address()) if settings.proxy_protocol else b"")


def _greetings(protocol: str, settings: Settings, address: str) -> "list[bytes]":
    """What the helper may say to us. Whether it can read the certificate, only it knows for sure."""
    offer = settings.offer(settings.tls or settings.tls_wrap, trusted=_is_in(settings.trusted, address))
    greetings = [greeting(protocol, offer)]
    offer.starttls = not offer.starttls
    return [*greetings, greeting(protocol, offer)]


def _is_in(networks: str, address: str) -> bool:
    try:
        return address in Networks(networks)
    except ValueError:
        return False  # the settings' section has said so


def _rivals(entries: "list[Entry]") -> Iterator[Finding]:
    taken: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        if entry.port:
            other = taken.setdefault((entry.address, entry.port), entry)
            if other is not entry:
                what = f"port {entry.port} is claimed by {other.file} line {other.line}, too"
                yield _finding(entry, "warning", what, "remove one of them")


def _settings(site: Site, entry: Entry) -> Iterator[Finding]:
    """An entry may say that it is of another site."""
    directory = entry.environment.get("PROXYHELPER_CONFDIR", site.directory)
    if directory != site.directory:
        what = f"its configuration is in {directory}, and not what is examined here"
        yield _finding(entry, "warning", what, f"proxyhelper -c {shlex.quote(directory)} check")


def _clear(entry: Entry) -> Iterator[Finding]:
    """Clients of these ports begin with TLS."""
    in_front = is_true(entry.environment.get(f"{entry.protocol.upper()}_TLS", ""))
    if entry.port in TLS_PORTS and not entry.tls and not in_front:
        what = f"clients of port {entry.port} begin with TLS, and it serves them in clear: no PROXY_TLS_WRAP=1"
        remedy = f"print the entry anew: proxyhelper entry {entry.activator} --{entry.protocol}s"
        yield _finding(entry, "error", what, remedy)


def _process(site: Site, entry: Entry) -> Iterator[Finding]:
    """Does the program start as the entry's user, and can that user read what the helper reads?"""
    try:
        person = privileges.proxy_person(entry.user) if entry.user != "root" else None
    except Failure:
        what = f"its user {entry.user} is not an unprivileged user of this host"
        remedy = "useradd --system --no-create-home --shell /usr/sbin/nologin proxyhelper, for example"
        yield _finding(entry, "error", what, remedy)
        return
    if not privileges.is_root():
        person = None
    problem = _start(entry, person)
    remedy = f"print the entry anew: proxyhelper entry {entry.activator}"
    unreadable = []
    if person:
        certificates, authorities = _certificates(site, entry), _authorities(site, entry)
        root = privileges.assume(person)
        try:
            unreadable = _unreadable(site, entry) + _unreadable_certificates(certificates, person)
            unreadable += [(path, _open(path)) for path in authorities if _is_refused(path)]
            if closed := _closed_directory(os.path.dirname(entry.program[-1])):
                remedy = f"chmod o+x {shlex.quote(closed)}"
        finally:
            privileges.resume_root(root)
    if problem:
        yield _finding(entry, "error", f"{' '.join(entry.program)} does not start: {problem}", remedy)
    for path, remedy in unreadable:
        yield _finding(entry, "error", f"its user {entry.user} cannot read {path}", remedy)


def _start(entry: Entry, person: "privileges.Person | None") -> str:
    """Start the program as the activator does, as far as its version; what went wrong, or ""."""
    try:
        done = subprocess.run(
            [*entry.program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_SECONDS,
            cwd="/",
            env={},
            user=person.uid if person else None,
            group=person.gid if person else None,
            extra_groups=[] if person else None,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return str(error)
    last_words = done.stderr.decode(errors="backslashreplace").strip().splitlines()[-1:]
    return f"exit status {done.returncode}: {' '.join(last_words)}" if done.returncode else ""


def _unreadable(site: Site, entry: Entry) -> "list[tuple[str, str]]":
    """What cannot be read, and what to do about each."""
    settings = [f"{site.directory}/{name}" for name in (*MAIN_FILES[entry.protocol], COMMON_FILE)]
    if closed := _closed_directory(site.directory):
        return [(closed, f"chmod o+x {shlex.quote(closed)}")]
    remedies = {path: f"chmod o+r {shlex.quote(path)}" for path in settings}
    remedies.update({path: f"chown {entry.user} {shlex.quote(path)}" for path in userdb_files(site.userdb)})
    return [(path, remedy) for path, remedy in remedies.items() if _is_refused(path)]


def _certificates(site: Site, entry: Entry) -> "list[str]":
    """Where they and their keys are, if the helper itself is to do TLS."""
    try:
        settings = load(entry.protocol, _environment(site, entry))
    except ConfigurationError:
        return []
    found = suffixes(settings.certificate) if settings.starttls or settings.tls_wrap else []
    return list(dict.fromkeys(path for suffix in found for path in tls.certificate_for(settings, suffix)))


def _authorities(site: Site, entry: Entry) -> "list[str]":
    """The files or directories of those whose certificates the helper trusts."""
    try:
        settings = load(entry.protocol, _environment(site, entry))
    except ConfigurationError:
        return []
    is_asking = settings.verify_peer != "none" and (settings.starttls or settings.tls_wrap)
    return [path for path in (settings.proxy_cafile, is_asking and settings.trustcerts) if path]


def _open(path: str) -> str:
    """The command that lets everybody read the file or directory."""
    closed = _closed_directory(os.path.dirname(path))
    return f"chmod o+x {shlex.quote(closed)}" if closed else f"chmod o+rX {shlex.quote(path)}"


def _unreadable_certificates(paths: "list[str]", person: privileges.Person) -> "list[tuple[str, str]]":
    """As `_unreadable`; a key is nothing for everybody to read."""
    unreadable = []
    for path in filter(_is_refused, paths):
        quoted = shlex.quote(path)
        closed = _closed_directory(os.path.dirname(path))
        remedy = (
            f"chmod o+x {shlex.quote(closed)}" if closed else f"chgrp {_group(person)} {quoted} && chmod g+r {quoted}"
        )
        unreadable.append((path, remedy))
    return unreadable


def _group(person: privileges.Person) -> str:
    try:
        return grp.getgrgid(person.gid).gr_name
    except KeyError:
        return str(person.gid)


def _closed_directory(path: str) -> str:
    """The first directory on the way into that at `path` that cannot be entered, or ""."""
    parts = path.rstrip("/").split("/")
    ways = ["/".join(parts[:end]) or "/" for end in range(1, len(parts) + 1)]
    return next((way for way in ways if not os.access(way, os.X_OK, effective_ids=True)), "")


def _is_refused(path: str) -> bool:
    try:
        os.stat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    wanted = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK
    return not os.access(path, wanted, effective_ids=True)


def _local_server(entry: Entry, survey: Survey) -> Iterator[Finding]:
    count = survey.here[entry.protocol]
    if count and not entry.local_server:
        what = f"it names no local server, and accounts are on this host: {count}"
        remedy = f"proxyhelper entry {entry.activator} --local prints one that does; or set mailhosts elsewhere"
        yield _finding(entry, "error", what, remedy)
    elif count and entry.user != "root":
        what = f"it runs as {entry.user}, accounts are on this host ({count}), and only root can become their users"
        yield _finding(entry, "error", what, "let it run as root, or move these accounts")
    if entry.local_server:
        try:
            local.check_executable(entry.local_server[0])
        except Failure as failure:
            yield _finding(entry, "error" if count else "warning", str(failure), "correct or remove it")


def _finding(entry: Entry, level: str, what: str, remedy: str) -> Finding:
    return Finding(level, what, remedy, entry.file, entry.line)
