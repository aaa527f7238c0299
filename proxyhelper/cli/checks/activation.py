"""The activators' entries: do they start the helper, can it read its files there, can the local server run?"""

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator

from ... import local, privileges
from ...backend import words
from ...dialogue.greetings import greeting
from ...failures import Failure
from ...settings import COMMON_FILE, MAIN_FILES, Settings
from ..activators import Entry
from ..console import Site
from . import Finding
from .accounts import Survey
from .files import userdb_files
from .mailhosts import hear

START_SECONDS = 10


def examine(site: Site, entries: "list[Entry]", survey: Survey, settings: "dict[str, Settings]") -> Iterator[Finding]:
    for entry in entries:
        findings = [*_settings(site, entry), *_process(site, entry), *_local_server(entry, survey)]
        yield from findings
        yield from _listener(entry, settings.get(entry.protocol), bool(findings))
    yield from _rivals(entries)
    for protocol in settings:
        if not any(entry.protocol == protocol for entry in entries):
            what = f"nothing on this host starts proxyhelper-{protocol}"
            yield Finding("note", what, f"proxyhelper entry xinetd, systemd or couriertcpd --{protocol}")


def _listener(entry: Entry, settings: "Settings | None", is_broken: bool) -> Iterator[Finding]:
    """Is it the helper that answers where the entry says?"""
    if entry.waits:
        what = "it gives the helper the listening socket in place of a connection"
        yield _finding(entry, "error", what, "wait = no (xinetd), nowait (inetd)")
    elif entry.port and settings:
        address = entry.address or "127.0.0.1"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = f"port {entry.port} of {address}"
        try:
            said, _ = hear(family, (address, entry.port), START_SECONDS)
        except OSError as error:
            remedy = f"start {entry.activator}, or let it read this entry"
            yield _finding(entry, "warning", f"nothing answers on {where}: {words(error)}", remedy)
            return
        expected = greeting(entry.protocol, settings.capabilities, settings.login_allowed, settings.mechanisms)
        if said != expected and not entry.environment and not is_broken:
            shown = said[:80].decode(errors="backslashreplace").strip()
            yield _finding(entry, "error", f"not the helper answers on {where}: {shown}", "stop what listens there")
        elif not is_broken:
            yield _finding(entry, "ok", f"{entry.activator} serves {entry.protocol.upper()} on {where}", "")


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
        root = privileges.assume(person)
        try:
            unreadable = _unreadable(site, entry)
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
    return not os.access(path, os.R_OK, effective_ids=True)


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
