"""What `proxyhelper entry` writes, installed as it says under real xinetd, systemd and couriertcpd, and used, in clear
and behind TLS.

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
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support import BIN, admin, open_directory, wait_until

from .certificates import Authority
from .clients import LOGIN, Client, check_mailbox, log_out, port_of
from .conftest import FAR, HOSTNAME, NEAR, Site
from .courier import assign, local_server
from .mail import Account
from .servers import PORTS, TLS_PORTS
from .systemd import Host, booted, own_etc
from .tls import WAYS, logged_in
from .world import PATIENCE, World, is_listening, program, run, running, syslog

ADDRESS = "127.0.0.1"
LOST = Account("lost@example.com", "secret")
LOST_RECORD = (  # nothing listens on its mailhost; the password in a form that only the C library knows
    "lost@example.com\tsystempw=$6$0123456789abcdef$8CGkKDSyVpVlVNcs5PssRw/Tb8EgfecuA6D/zsRQFumJaU.s8KgTWWc2HfgkB7h2n1q"
    "IKiJFeSyUFrwvhILXy.|options=mailhost=127.0.0.4\n"
)
SERVICES = ["--imap", "--pop3", "--imaps", "--pop3s"]
PER_SOURCE = 100
CAP_NET_BIND_SERVICE = 1 << 10
REFUSED = (imaplib.IMAP4.error, poplib.error_proto)
TEMPORARY = r"UNAVAILABLE|SYS/TEMP"
INFO, ERROR, MAIL = "6", "3", "2"  # syslog's numbers

Logged = Callable[[str, str, str], object]


@dataclass(frozen=True)
class Front:
    """An activator with the entries. `logged` waits for a line: ident, pattern from its beginning, priority. `clients`
    trust who has certified it."""

    local: bool
    logged: Logged
    clients: ssl.SSLContext
    host: Host | None = None

    def log_in(self, way: str, protocol: str, account: Account) -> Client:
        if way == "clear":
            return LOGIN[protocol](ADDRESS, account)
        return logged_in(way, ADDRESS, protocol, account, self.clients)


@contextmanager
def under_xinetd(directory: Path, site: Site, authority: Authority, local: bool) -> Iterator[Front]:
    etc = own_etc(directory / "etc", HOSTNAME)
    shutil.rmtree(etc / "xinetd.d")
    (etc / "xinetd.d").mkdir()
    with syslog(directory) as log:
        world = World(files={"/etc": etc}, log_socket=log.socket)
        install("xinetd", etc / "xinetd.d", local, partial(run, world=world))
        settle(etc, site, authority, local)
        for file in (etc / "xinetd.d").iterdir():
            file.write_text(with_local_server(file.read_text()).replace("{", f"{{\n    bind = {ADDRESS}", 1))
        files = ["-filelog", str(directory / "xinetd.log"), "-pidfile", str(directory / "xinetd.pid")]
        with running([program("xinetd"), "-dontfork", *files], world=world, output=directory / "output"):
            yield Front(
                local, lambda ident, line, _: log.wait_for(rf" {ident}(\[\d+\])?: {line}"), authority.trusting()
            )


@contextmanager
def under_systemd(
    directory: Path, site: Site, authority: Authority, local: bool, activator: str = "systemd"
) -> Iterator[Front]:
    if activator == "couriertcpd":
        program("couriertcpd")
    with booted(directory, HOSTNAME) as host:
        units = host.etc / "systemd/system"
        start = install(activator, units, local, lambda command: host.run(*command))
        settle(host.etc, site, authority, local)
        for unit in list(units.iterdir()):
            if changes := adjustments(unit.read_text()):
                (units / f"{unit.name}.d").mkdir()
                (units / f"{unit.name}.d/here.conf").write_text(changes)
        host.run("sh", "-c", start)
        yield Front(local, partial(in_journal, host), authority.trusting(), host)
        host.run("systemctl", "stop", "proxyhelper-*")


def in_journal(host: Host, ident: str, line: str, priority: str) -> dict[str, str]:
    known = {"SYSLOG_IDENTIFIER": ident, "SYSLOG_FACILITY": MAIL, "PRIORITY": priority}
    return host.wait_for_log(MESSAGE=f"{line}.*", **known)


def install(activator: str, directory: Path, local: bool, as_root: Callable[[list[str]], object]) -> str:
    """Write the entries and make their user, as they say; the command that is to come next."""
    told = admin("entry", activator, *SERVICES, *(["--local"] if local else []), "--output", directory)
    assert told.returncode == 0, told.stderr
    useradd = {line for file in directory.iterdir() for line in re.findall("useradd .*", file.read_text())}
    assert len(useradd) == (not local)
    for command in useradd:
        as_root(command.split())
    next_step = re.search(r"next, .*: (systemctl .*)", told.stdout)
    assert next_step
    return next_step[1]


def settle(etc: Path, site: Site, authority: Authority, local: bool) -> None:
    """The configuration, as the entries ask for it."""
    directory = etc / "courier"
    shutil.copytree(site.configuration, directory, dirs_exist_ok=True)
    certificate = directory / "mail.pem"
    certificate.touch(0o600)
    certificate.write_text(authority.issue("front", f"DNS:{HOSTNAME}", f"IP:{ADDRESS}").both.read_text())
    for name in ("imapd", "pop3d"):
        text = (directory / name).read_text()
        (directory / name).write_text(assign(text, {"TLS_CERTFILE": "/etc/courier/mail.pem"}))
    userdb = directory / "userdb"
    with userdb.open("a") as accounts:
        accounts.write(LOST_RECORD)
    if not local:
        users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
        uid, gid = next((int(user[2]), int(user[3])) for user in users if user[0] == "proxyhelper")
        os.chown(userdb, uid, gid)
        os.chown(certificate, -1, gid)
        certificate.chmod(0o640)


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
def front(request: pytest.FixtureRequest, site: Site, authority: Authority, backends: None) -> Iterator[Front]:
    name, local = request.param
    with open_directory() as directory, FRONTS[name](directory, site, authority, local) as front:
        for port in (*PORTS.values(), *TLS_PORTS.values()):
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


@pytest.fixture(params=["clear", *WAYS])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ident(way: str, protocol: str) -> str:
    """The ident that fail2ban knows."""
    return f"{protocol}d-ssl" if way == "wrapped" else f"{protocol}d"


def test_mailhost_elsewhere(front: Front, protocol: str, way: str, ident: str) -> None:
    client = front.log_in(way, protocol, FAR)
    port = port_of(client)
    status = status_of(only_session(protocol))
    check_mailbox(client)
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) & ~CAP_NET_BIND_SERVICE == 0
    assert status["NoNewPrivs"] == str(int(front.host is not None and not front.local))
    tls = "" if way == "clear" else ".*tls=TLSv1.3"
    for event in ("LOGIN", "LOGOUT"):
        front.logged(ident, rf"{event}, user={FAR.name}, .*port=\[{port}\].*backend={FAR.mailhost}:{tls}", INFO)


def test_mailhost_here(front: Front, protocol: str, way: str, ident: str) -> None:
    if front.local:
        client = front.log_in(way, protocol, NEAR)
        port = port_of(client)
        if way != "clear":
            assert "0" not in status_of(only_session(protocol))["Uid"].split()
        check_mailbox(client)
        front.logged(ident, rf"(INFO: )?LOGOUT, user={NEAR.name}, .*port=\[{port}\]", INFO)
    else:
        with pytest.raises(REFUSED, match=TEMPORARY):
            front.log_in(way, protocol, NEAR)
        front.logged(ident, f"LOGIN DEFERRED, user={NEAR.name}, ", ERROR)


def status_of(process: Path) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())


def test_failures(front: Front, protocol: str, way: str, ident: str) -> None:
    with pytest.raises(REFUSED, match="AUTH"):
        front.log_in(way, protocol, Account(FAR.name, "wrong"))
    front.logged(ident, f"LOGIN FAILED, user={FAR.name}", INFO)
    with pytest.raises(REFUSED, match=TEMPORARY):
        front.log_in(way, protocol, LOST)
    front.logged(ident, f"LOGIN DEFERRED, user={LOST.name}", ERROR)


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


def test_tls_that_dies(front: Front) -> None:
    """A local server behind it ends, too."""
    account = NEAR if front.local else FAR
    client = front.log_in("wrapped", "imap", account)
    server = local_server("imap")[0].encode()
    assert running_with(server) == front.local
    os.kill(int(only_session("imap").name), signal.SIGSEGV)
    client.shutdown()
    wait_until(lambda: not running_with(server), "the local server stays")
    if front.host:
        for units in (["--all", "proxyhelper-imaps@*"], ["--failed"]):
            wait_until(partial(no_units, front.host, units), f"{units} stay")
    log_out(front.log_in("wrapped", "imap", account))


def running_with(program: bytes) -> bool:
    """Whether a process has this as the first word of its command."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().split(b"\0")[0] == program:
                return True
    return False


def no_units(host: Host, which: list[str]) -> bool:
    return not host.run("systemctl", "list-units", "--plain", "--no-legend", *which)
