"""The administrator's program about a site that is up: Dovecot as backend, Courier as local server, and the helper."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from support import admin, command, gdbm, open_directory

from . import courier
from .activators import ACTIVATORS, front
from .certificates import Authority
from .conftest import ACCOUNTS, FAR, HOSTNAME, NEAR, SETTINGS, Site
from .courier import configure
from .mail import Account, home_of
from .servers import PORTS, TLS_PORTS, dovecot
from .tls import tls_front
from .world import program

FRONT = "127.0.0.1"
WITHOUT_TLS = {
    **SETTINGS,
    "PROXY_HOSTNAME": HOSTNAME,
    "PROXY_TRUSTED": "127.0.0.0/8 ::1",
    "IMAPDSTARTTLS": "NO",
    "POP3_STARTTLS": "NO",
}
ON_THE_WAY = ["account", "password", "options", "route"]
ENTRY = """\
service {service}
{{
    port = {port}
    user = root
    env = PROXY_TLS_WRAP={wrap}
    flags = NAMEINARGS
    server = {argv[0]}
    server_args = {server_args}
}}
"""


@pytest.fixture
def entries(area: Path) -> Path:
    """A directory with xinetd's entries of both protocols, with Courier's servers for the mailboxes here."""
    directory = area / "xinetd.d"
    directory.mkdir()
    write_entries(directory, PORTS, wrap=0)
    return directory


@pytest.fixture
def all_entries(entries: Path) -> Path:
    """Those for TLS from the first byte, too."""
    write_entries(entries, TLS_PORTS, wrap=1)
    return entries


def write_entries(directory: Path, ports: Mapping[str, int], wrap: int) -> None:
    for protocol, port in ports.items():
        argv = command(protocol, *courier.local_server(protocol))
        service = protocol + "s" * wrap
        text = ENTRY.format(service=service, port=port, wrap=wrap, argv=argv, server_args=shlex.join(argv))
        (directory / service).write_text(text)


@dataclass(frozen=True)
class Walked:
    """What `login --json` says."""

    status: int
    steps: list[str]
    last: str


def log_in(site: Path, protocol: str, account: Account, entries: Path, password: str = "", tls: str = "") -> Walked:
    """Walk the way of an account; its password is nowhere shown."""
    given = password or account.password
    what = ["login", account.name, f"--{protocol}", "--json", "--entries", str(entries), *([tls] if tls else [])]
    done = admin("-c", site, *what, text=f"{given}\n")
    assert given not in done.stdout + done.stderr
    walked = json.loads(done.stdout)
    assert walked["status"] == done.returncode
    assert all(step["milliseconds"] >= 0 for step in walked["steps"])
    return Walked(done.returncode, [step["step"] for step in walked["steps"]], walked["steps"][-1]["outcome"])


def findings(site: Path, entries: Path) -> list[dict[str, str]]:
    """What `check` finds, without what it finds of Courier's own settings."""
    found = json.loads(admin("-c", site, "check", "--json", "--entries", entries).stdout)["findings"]
    return [finding for finding in found if finding["section"] != "settings"]


def wrong(found: list[dict[str, str]]) -> list[str]:
    return [finding["what"] for finding in found if finding["level"] in ("error", "warning")]


def test_login_at_dovecot(backends: None, site: Site, entries: Path, protocol: str) -> None:
    walked = log_in(site.configuration, protocol, FAR, entries)
    assert walked.status == 0
    assert walked.steps[:6] == [*ON_THE_WAY, "name", "connection"]
    assert walked.steps[-1] == "reply"
    assert walked.last.startswith({"imap": "OK ", "pop3": "+OK Logged in."}[protocol])


def test_wrong_password(backends: None, site: Site, entries: Path, protocol: str) -> None:
    walked = log_in(site.configuration, protocol, FAR, entries, "wrong-Secret")
    assert (walked.status, walked.steps) == (1, ["account", "password"])


def test_dovecot_refuses(backends: None, area: Path, entries: Path, protocol: str) -> None:
    """It knows another password, and delays its refusal."""
    account = Account(FAR.name, "another-Secret", mailhost=FAR.mailhost)
    site = configure(area / "etc", [account], area / "homes", PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
    walked = log_in(site, protocol, account, entries)
    assert (walked.status, walked.steps[:4]) == (77, ON_THE_WAY)
    assert "Authentication failed" in walked.last


def test_nobody_at_the_mailhost(area: Path, entries: Path, protocol: str) -> None:
    account = Account("gone@example.com", "its-Secret", mailhost="127.0.0.99")
    site = configure(area / "etc", [account], area / "homes", PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
    walked = log_in(site, protocol, account, entries)
    assert (walked.status, walked.steps) == (75, [*ON_THE_WAY, "name", "connection"])
    assert "127.0.0.99" in walked.last


def test_login_at_couriers_local_server(site: Site, entries: Path, protocol: str) -> None:
    walked = log_in(site.configuration, protocol, NEAR, entries)
    assert (walked.status, walked.steps) == (0, [*ON_THE_WAY, "local server"])
    assert "ok" in walked.last.lower()
    assert " ".join(courier.local_server(protocol)) in walked.last
    assert not is_running(courier.local_server(protocol)[0]), "it has ended"


def is_running(server: str) -> bool:
    return any(server.encode() in read(file) for file in Path("/proc").glob("[0-9]*/cmdline"))


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # it has ended


def test_home_is_gone(area: Path, entries: Path, protocol: str) -> None:
    site = configure(area / "etc", [NEAR], area / "homes", PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
    home_of(area / "homes", NEAR).rmdir()
    walked = log_in(site, protocol, NEAR, entries)
    assert (walked.status, walked.steps[-1]) == (75, "local server")
    assert "home" in walked.last, "as the helper's log says"


@pytest.fixture
def certified(site: Site, area: Path, authority: Authority) -> Path:
    """The configuration of a site with a certificate."""
    certificate = authority.issue("front", f"DNS:{HOSTNAME}", end=timedelta(days=90))
    certificate.both.write_text(certificate.both.read_text() + authority.ca.read_text())
    more = {"TLS_CERTFILE": str(certificate.both), "PROXY_TRUSTED": "127.0.0.0/8", "PROXY_HOSTNAME": HOSTNAME}
    return configure(area / "etc", ACCOUNTS, site.homes, **SETTINGS, **more)


@pytest.mark.parametrize("tls", ["--starttls", "--tls"])
def test_login_through_the_helper(backends: None, certified: Path, all_entries: Path, protocol: str, tls: str) -> None:
    for account, last in ((FAR, "helper"), (NEAR, "local server")):
        walked = log_in(certified, protocol, account, all_entries, tls=tls)
        assert (walked.status, walked.steps) == (0, [*ON_THE_WAY, "TLS", "certificate", last])
        assert "OK" in walked.last


BACKEND = "127.0.0.12"


@pytest.fixture
def secured(area: Path, authority: Authority) -> Iterator[Path]:
    """The configuration of a site whose backend has a certificate for its address, and not for its name."""
    accounts = [
        Account("one@example.com", "one-Secret", mailhost=BACKEND, options="mailhosttls=starttls"),
        Account("two@example.com", "two-Secret", mailhost=BACKEND, options="mailhosttls=yes"),
        Account("three@example.com", "three-Secret", mailhost="localhost", options="mailhosttls=yes"),
    ]
    certificate = authority.issue("backend", f"IP:{BACKEND}", end=timedelta(days=90))
    (area / "dovecot").mkdir()
    more = {"PROXY_CAFILE": str(authority.ca), "PROXY_TRUSTED": "127.0.0.0/8", "PROXY_HOSTNAME": HOSTNAME}
    with dovecot(area / "dovecot", BACKEND, accounts, certificate):
        yield configure(area / "etc", accounts, area / "homes", **SETTINGS, **more)


def test_login_at_a_backend_behind_tls(secured: Path, entries: Path, protocol: str) -> None:
    for name in ("one", "two"):
        walked = log_in(secured, protocol, Account(f"{name}@example.com", f"{name}-Secret"), entries)
        assert (walked.status, "TLS" in walked.steps, walked.steps[-1]) == (0, True, "reply")


def test_check_of_a_backend_behind_tls(secured: Path, entries: Path) -> None:
    found = [finding for finding in findings(secured, entries) if finding["section"] == "mailhosts"]
    said = {finding["what"]: finding["level"] for finding in found}
    for where in ("IMAP 127.0.0.12:143", "IMAP 127.0.0.12:993", "POP3 127.0.0.12:110", "POP3 127.0.0.12:995"):
        (what,) = [what for what in said if what.startswith(where)]
        assert (said.pop(what), "answers" in what, "TLSv1.3" in what) == ("ok", True, True)
    assert set(said.values()) == {"error"}, "nothing listens at localhost"


@pytest.fixture
def served(certified: Path, area: Path) -> Iterator[None]:
    """The helper listens on this host."""
    with tls_front(ACTIVATORS["systemd"], area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(certified)}):
        yield


def test_check_of_a_site_in_order(backends: None, certified: Path, all_entries: Path, served: None) -> None:
    found = findings(certified, all_entries)
    assert wrong(found) == []
    texts = "\n".join(finding["what"] for finding in found)
    assert f"for {HOSTNAME}, valid from" in texts
    for protocol, port in PORTS.items():
        assert f"xinetd serves {protocol.upper()} on port {port} of 127.0.0.1 with TLSv1.3" in texts
        assert f"xinetd serves {protocol.upper()}S on port {TLS_PORTS[protocol]} of 127.0.0.1 with TLSv1.3" in texts
        for account in ACCOUNTS[:2]:
            assert f"{protocol.upper()} {account.mailhost}:{port} (1 account) answers: another server" in texts
    assert not [account.password for account in ACCOUNTS if account.password in texts]


@pytest.mark.parametrize(
    ("networks", "level", "what"), [("127.0.0.1", "ok", "xinetd serves"), ("192.0.2.1", "note", "is not tried")]
)
def test_check_behind_a_balancer(site: Site, area: Path, entries: Path, networks: str, level: str, what: str) -> None:
    """As one of those that may send a PROXY header, or not."""
    more = {"PROXY_PROTOCOL": "1", "PROXY_PROTOCOL_FROM": networks}
    configuration = configure(area / "etc", [NEAR], site.homes, **WITHOUT_TLS, **more)
    with front(ACTIVATORS["systemd"], area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(configuration)}):
        found = findings(configuration, entries)
    assert wrong(found) == []
    said = [finding for finding in found if finding["section"] == "activators"]
    assert [finding["level"] for finding in said] == [level, level]
    assert all(what in finding["what"] for finding in said)


@pytest.mark.parametrize("mailhost", ["localhost", FRONT, "127.0.0.1:143"])
def test_mailhost_is_this_very_service(area: Path, entries: Path, mailhost: str) -> None:
    """Under a name that the self-check of a login does not know."""
    loop = Account("loop@example.com", "its-Secret", mailhost=mailhost, options="disablepop3=1")
    site = configure(area / "etc", [loop], area / "homes", **WITHOUT_TLS)
    with front(ACTIVATORS["systemd"], area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(site)}):
        found = [finding for finding in findings(site, entries) if finding["level"] == "error"]
        walked = log_in(site, "imap", loop, entries)
    (finding,) = found
    assert "is this very service" in finding["what"]
    assert finding["setting"] == "PROXY_HOSTNAME"
    assert f"PROXY_HOSTNAME={mailhost.partition(':')[0]}" in finding["remedy"]
    assert f"{HOSTNAME} (PROXY_HOSTNAME)" in finding["remedy"]
    assert walked.status == 77
    assert "this very service" in walked.last


def test_remedy_of_a_loop_helps(area: Path, entries: Path) -> None:
    near = Account("near@example.com", "its-Secret", mailhost="localhost")
    site = configure(area / "etc", [near], area / "homes", **WITHOUT_TLS)
    with front(ACTIVATORS["systemd"], area / "front", FRONT, {"PROXYHELPER_CONFDIR": str(site)}):
        before = findings(site, entries)
        for name in ("imapd", "pop3d"):
            (site / name).write_text(courier.assign((site / name).read_text(), {"PROXY_HOSTNAME": "localhost"}))
        after = findings(site, entries)
    assert any("is this very service" in what for what in wrong(before))
    assert wrong(after) == []


def test_compiled_userdb(backends: None, area: Path, entries: Path) -> None:
    """makeuserdb's form alone."""
    gdbm()
    site = configure(area / "etc", [FAR], area / "homes", **WITHOUT_TLS)
    userdb = site / "userdb"
    files = [f"{userdb}.dat", f"{userdb}shadow.dat", f"{userdb}.lock"]
    subprocess.run([program("makeuserdb"), "-f", str(userdb)], check=True, timeout=30, stdin=subprocess.DEVNULL)
    userdb.unlink()
    assert all(Path(file).exists() for file in files[:2])
    assert [what for what in wrong(findings(site, entries)) if "nothing answers on" not in what] == []
    assert log_in(site, "imap", FAR, entries).status == 0
    Path(files[1]).chmod(0o644)
    assert [what for what in wrong(findings(site, entries)) if "is not used" in what]


def test_as_the_proxys_own_user(backends: None, entries: Path) -> None:
    """A proxy without local mailboxes needs no root, and neither does looking after it."""
    with open_directory() as directory:
        site = configure(directory / "etc", [FAR], directory / "homes", PROXY_HOSTNAME=HOSTNAME, **SETTINGS)
        os.chown(site / "userdb", 65534, 65534)
        before = os.getresuid(), os.getresgid(), os.getgroups()
        os.setgroups([])
        os.setresgid(65534, 65534, 0)
        os.setresuid(65534, 65534, 0)
        try:
            walked = log_in(site, "imap", FAR, entries)
        finally:
            os.setresuid(*before[0])
            os.setresgid(*before[1])
            os.setgroups(before[2])
    assert walked.status == 0
