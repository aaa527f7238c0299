"""What `proxyhelper entry` writes, installed as it says under real xinetd, systemd and couriertcpd, and used.

Only addresses are changed (Dovecot has others of these ports), and the local server is named, as the command asks for.
"""

from __future__ import annotations

import imaplib
import os
import poplib
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support import BIN, admin, open_directory, wait_until

from .clients import LOGIN, check_mailbox, log_out, port_of
from .conftest import FAR, HOSTNAME, NEAR, Site
from .courier import local_server
from .mail import Account
from .servers import PORTS
from .systemd import Host, booted, own_etc
from .world import PATIENCE, World, is_listening, program, run, running, syslog

ADDRESS = "127.0.0.1"
LOST = Account("lost@example.com", "secret")
LOST_RECORD = (  # nothing listens on its mailhost; the password in a form that only the C library knows
    "lost@example.com\tsystempw=$6$0123456789abcdef$8CGkKDSyVpVlVNcs5PssRw/Tb8EgfecuA6D/zsRQFumJaU.s8KgTWWc2HfgkB7h2n1q"
    "IKiJFeSyUFrwvhILXy.|options=mailhost=127.0.0.4\n"
)
IDENT = {"imap": "imapd", "pop3": "pop3d"}
PER_SOURCE = 100
CAP_NET_BIND_SERVICE = 1 << 10
REFUSED = (imaplib.IMAP4.error, poplib.error_proto)
TEMPORARY = r"UNAVAILABLE|SYS/TEMP"
INFO, ERROR, MAIL = "6", "3", "2"  # syslog's numbers

Logged = Callable[[str, str, str], object]


@dataclass(frozen=True)
class Front:
    """An activator with the entries. `logged` waits for a line: protocol, pattern from its beginning, priority."""

    local: bool
    logged: Logged
    host: Host | None = None


@contextmanager
def under_xinetd(directory: Path, site: Site, local: bool) -> Iterator[Front]:
    etc = own_etc(directory / "etc", HOSTNAME)
    shutil.rmtree(etc / "xinetd.d")
    (etc / "xinetd.d").mkdir()
    with syslog(directory) as log:
        world = World(files={"/etc": etc}, log_socket=log.socket)
        install("xinetd", etc / "xinetd.d", local, partial(run, world=world))
        settle(etc, site, local)
        for file in (etc / "xinetd.d").iterdir():
            file.write_text(with_local_server(file.read_text()).replace("{", f"{{\n    bind = {ADDRESS}", 1))
        files = ["-filelog", str(directory / "xinetd.log"), "-pidfile", str(directory / "xinetd.pid")]
        with running([program("xinetd"), "-dontfork", *files], world=world, output=directory / "output"):
            yield Front(local, lambda protocol, line, _: log.wait_for(rf" {IDENT[protocol]}(\[\d+\])?: {line}"))


@contextmanager
def under_systemd(directory: Path, site: Site, local: bool, activator: str = "systemd") -> Iterator[Front]:
    if activator == "couriertcpd":
        program("couriertcpd")
    with booted(directory, HOSTNAME) as host:
        units = host.etc / "systemd/system"
        start = install(activator, units, local, lambda command: host.run(*command))
        settle(host.etc, site, local)
        for unit in list(units.iterdir()):
            if changes := adjustments(unit.read_text()):
                (units / f"{unit.name}.d").mkdir()
                (units / f"{unit.name}.d/here.conf").write_text(changes)
        host.run("sh", "-c", start)
        yield Front(local, partial(in_journal, host), host)
        host.run("systemctl", "stop", "proxyhelper-*")


def in_journal(host: Host, protocol: str, line: str, priority: str) -> dict[str, str]:
    known = {"SYSLOG_IDENTIFIER": IDENT[protocol], "SYSLOG_FACILITY": MAIL, "PRIORITY": priority}
    return host.wait_for_log(MESSAGE=f"{line}.*", **known)


def install(activator: str, directory: Path, local: bool, as_root: Callable[[list[str]], object]) -> str:
    """Write the entries and make their user, as they say; the command that is to come next."""
    told = admin("entry", activator, *(["--local"] if local else []), "--output", directory)
    assert told.returncode == 0, told.stderr
    useradd = {line for file in directory.iterdir() for line in re.findall("useradd .*", file.read_text())}
    assert len(useradd) == (not local)
    for command in useradd:
        as_root(command.split())
    next_step = re.search(r"next, .*: (systemctl .*)", told.stdout)
    assert next_step
    return next_step[1]


def settle(etc: Path, site: Site, local: bool) -> None:
    """The configuration, as the entries ask for it."""
    shutil.copytree(site.configuration, etc / "courier", dirs_exist_ok=True)
    userdb = etc / "courier/userdb"
    with userdb.open("a") as accounts:
        accounts.write(LOST_RECORD)
    if not local:
        users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
        os.chown(userdb, *next((int(user[2]), int(user[3])) for user in users if user[0] == "proxyhelper"))


def with_local_server(text: str) -> str:
    """The entry with the local server that there is."""
    text = text.replace("/usr/bin/imapd", local_server("imap")[0])
    return text.replace("/usr/lib/courier/courier/courierpop3d", local_server("pop3")[0])


def adjustments(unit: str) -> str:
    """A drop-in file for the unit, "" if none is needed."""
    if port := re.search(r"^ListenStream=(\d+)$", unit, re.MULTILINE):
        return f"[Socket]\nListenStream=\nListenStream={ADDRESS}:{port[1]}\n"
    (command,) = re.findall(r"^ExecStart=.*", unit.replace("\\\n", ""), re.MULTILINE)
    changes = f"[Service]\nExecStart=\n{with_local_server(command).replace('-address=0', f'-address={ADDRESS}')}\n"
    paths = (sys.executable, str(Path(sys.executable).resolve()), str(BIN))
    if any(re.match("/(home|root|tmp)/", path) for path in paths):
        changes += "ProtectHome=no\nPrivateTmp=no\n"
    return changes


FRONTS = {
    "xinetd": under_xinetd,
    "systemd": under_systemd,
    "couriertcpd": partial(under_systemd, activator="couriertcpd"),
}


def described(kind: tuple[str, bool]) -> str:
    return kind[0] + " --local" * kind[1]


@pytest.fixture(scope="module", params=[(name, local) for name in FRONTS for local in (False, True)], ids=described)
def front(request: pytest.FixtureRequest, site: Site, backends: None) -> Iterator[Front]:
    name, local = request.param
    with open_directory() as directory, FRONTS[name](directory, site, local) as front:
        for port in PORTS.values():
            wait_until(partial(is_listening, ADDRESS, port), f"{name} does not listen on port {port}")
        yield front


def sessions(protocol: str) -> list[Path]:
    """Those that the helper serves, in /proc."""
    helper = re.compile(rb"[^\0]*python[^\0]*\0-I\0-S\0[^\0]*proxyhelper-" + protocol.encode())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if helper.match((process / "cmdline").read_bytes()):
                found.append(process)
    return found


def only_session(protocol: str) -> Path:
    wait_until(lambda: len(sessions(protocol)) == 1, "sessions of before stay")
    return sessions(protocol)[0]


def test_mailhost_elsewhere(front: Front, protocol: str) -> None:
    client = LOGIN[protocol](ADDRESS, FAR)
    port = port_of(client)
    status = dict(line.split(":\t", 1) for line in (only_session(protocol) / "status").read_text().splitlines())
    check_mailbox(client)
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) & ~CAP_NET_BIND_SERVICE == 0
    assert status["NoNewPrivs"] == str(int(front.host is not None and not front.local))
    for event in ("LOGIN", "LOGOUT"):
        front.logged(protocol, rf"{event}, user={FAR.name}, .*port=\[{port}\].*backend={FAR.mailhost}:", INFO)


def test_mailhost_here(front: Front, protocol: str) -> None:
    if front.local:
        client = LOGIN[protocol](ADDRESS, NEAR)
        port = port_of(client)
        check_mailbox(client)
        front.logged(protocol, rf"(INFO: )?LOGOUT, user={NEAR.name}, .*port=\[{port}\]", INFO)
    else:
        with pytest.raises(REFUSED, match=TEMPORARY):
            LOGIN[protocol](ADDRESS, NEAR)
        front.logged(protocol, f"LOGIN DEFERRED, user={NEAR.name}, ", ERROR)


def test_failures(front: Front, protocol: str) -> None:
    with pytest.raises(REFUSED, match="AUTH"):
        LOGIN[protocol](ADDRESS, Account(FAR.name, "wrong"))
    front.logged(protocol, f"LOGIN FAILED, user={FAR.name}", INFO)
    with pytest.raises(REFUSED, match=TEMPORARY):
        LOGIN[protocol](ADDRESS, LOST)
    front.logged(protocol, f"LOGIN DEFERRED, user={LOST.name}", ERROR)


def test_one_client_cannot_take_all(front: Front) -> None:
    with ExitStack() as clients:
        for _ in range(PER_SOURCE):
            client = clients.enter_context(connect_from("127.0.0.10"))
        assert is_greeted(client), "the last within the limit"
        assert not is_greeted(clients.enter_context(connect_from("127.0.0.10")))
        assert is_greeted(clients.enter_context(connect_from("127.0.0.11")))


def connect_from(source: str) -> socket.socket:
    return socket.create_connection((ADDRESS, PORTS["imap"]), PATIENCE, source_address=(source, 0))


def is_greeted(client: socket.socket) -> bool:
    try:
        return client.recv(4096).startswith(b"* OK")
    except ConnectionResetError:
        return False


def test_a_session_that_dies(front: Front) -> None:
    """It is the end of nothing else, and leaves no unit behind."""
    client = LOGIN["imap"](ADDRESS, FAR)
    os.kill(int(only_session("imap").name), signal.SIGSEGV)
    client.shutdown()
    if front.host:
        for units in (["--all", "proxyhelper-imap@*"], ["--failed"]):
            wait_until(partial(no_units, front.host, units), f"{units} stay")
    log_out(LOGIN["imap"](ADDRESS, FAR))


def no_units(host: Host, which: list[str]) -> bool:
    return not host.run("systemctl", "list-units", "--plain", "--no-legend", *which)
