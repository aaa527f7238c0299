"""An account that lives here: what the local server finds when it is started."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted import LOGIN
from support import Session, b64, patched

PROTOCOLS = ("imap", "pop3")
CLIENTS = ("tcp", "socketpair", "pipes")
TEMPORARY = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
REPORT = r"""
for file in environ cmdline limits; do cat /proc/$$/$file > report-$file; done
cat /proc/self/status > report-status  # a shell that waits has signals blocked
for fd in 0 1; do cat /proc/$$/fdinfo/$fd > report-fd$fd; done
pwd -P > report-pwd; umask > report-umask; readlink /proc/$$/fd/2 > report-stderr
if [ "$PROTOCOL" = IMAP ]; then printf '%s OK LOGIN Ok.\r\n' "$IMAPLOGINTAG"; else printf '+OK logged in.\r\n'; fi
exec cat
"""
SERVER = ("/bin/sh", "-c", REPORT, "local-server", "Maildir")
LOGGED_IN = {"imap": b"a1 OK LOGIN Ok.\r\n", "pop3": b"+OK logged in.\r\n"}
NO_TRACE = {"LC_CTYPE", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "RES_OPTIONS"}


class Local:
    """A session whose local server has written its report into the account's home."""

    def __init__(self, session: Session, home: Path) -> None:
        self.session = session
        self.home = home

    def __getitem__(self, name: str) -> str:
        return (self.home / f"report-{name}").read_text("utf-8", "surrogateescape")

    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self["environ"].split("\0")[:-1])

    def status(self) -> dict[str, str]:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in self["status"].splitlines())}

    def signals(self, name: str) -> set[int]:
        mask = int(self.status()[name], 16)
        return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.fixture
def local(site, greeted, home) -> Callable[..., Local]:
    """Log in to an account that lives here."""

    def begin(
        protocol: str = "imap", login: bytes = b"", account: dict[str, str | None] | None = None, **options: object
    ) -> Local:
        site.account("u1", **{"home": str(home), "mail": f"{home}/Mail", "options": "wbnodsn=1"} | (account or {}))
        session = greeted(protocol, *SERVER, **options)
        session.send(login or LOGIN[protocol])
        assert session.until(LOGGED_IN[protocol])[-1] == LOGGED_IN[protocol]
        return Local(session, home)

    return begin


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arguments_directory_and_ids(local, protocol, client):
    found = local(protocol, client=client)
    assert found["cmdline"].split("\0")[:-1] == [*SERVER[:-1], f"{found.home}/Mail"]
    assert found["pwd"] == f"{found.home}\n"
    status = found.status()
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"1000"}
    assert set(status["Groups"].split()) <= {"1000"}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_account_without_mail_gets_the_default_maildir(local):
    assert local(account={"mail": None})["cmdline"].split("\0")[-2] == "Maildir"


def test_groups_of_the_activator_are_dropped(local):
    status = local(wrapped=("setpriv", "--groups", "0,1,2,3")).status()
    assert set(status["Groups"].split()) <= {"1000"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment(site, local, protocol):
    (site.directory / f"{protocol}d-ssl").write_text('SSL_X="x $HOME"\nMAILDIRPATH=Ssl\n')
    site.set(MAILDIRPATH="Maildir", MAIN_Y="$SSL_X y")
    env = {"HOME": "/somewhere", "KEPT": "as it was", "IMAP_CAPABILITY": "IMAP4rev1 CHANGED"}
    found = local(protocol, env=env)
    client = found.session.socket
    environment = found.environment()
    expected = {
        **env,
        "SSL_X": "x /somewhere",
        "MAIN_Y": "x /somewhere y",
        "MAILDIRPATH": "Maildir",
        f"{protocol.upper()}_PROXY": "1",
        "PROXY_HOSTNAME": "front.example",
        "AUTHENTICATED": "u1",
        "OPTIONS": "wbnodsn=1",
        "PROTOCOL": protocol.upper(),
        "TCPREMOTEIP": "127.0.0.1",
        "TCPREMOTEPORT": str(client.getsockname()[1]),
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(client.getpeername()[1]),
    }
    expected |= {"IMAPLOGINTAG": "a1"} if protocol == "imap" else {"UTF8": "0"}
    assert {name: environment.get(name) for name in expected} == expected
    assert ("IMAPLOGINTAG" in environment) == (protocol == "imap")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_of_python_or_the_activator_is_left(local, protocol):
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "x"}
    environment = local(protocol, env=env, wrapped=("/bin/sh", "-c", 'exec "$0" "$@" 3<&0 7</dev/null')).environment()
    assert not NO_TRACE & set(environment)
    assert not [name for name in environment if name.startswith(("PYTHON", "LC_"))]


def test_locale_of_the_activator_stays(local):
    environment = local(env={"LC_CTYPE": "en_US.ISO-8859-1", "LANG": "C"}).environment()
    assert (environment.get("LC_CTYPE"), environment.get("LANG")) == ("en_US.ISO-8859-1", "C")


def test_default_options_reach_the_local_server(local):
    options = local(env={"DEFAULTOPTIONS": "wbnodsn=0,sharedgroup=x"}).environment()["OPTIONS"].split(",")
    assert sorted(options) == ["sharedgroup=x", "wbnodsn=1"]


@pytest.mark.parametrize(
    ("client", "env", "ip"),
    [
        ("mapped", {}, "127.0.0.1"),
        ("tcp6", {}, "::1"),
        ("pipes", {"REMOTE_ADDR": "192.0.2.2", "REMOTE_PORT": "99"}, "192.0.2.2"),
        ("pipes", {"REMOTE_HOST": "192.0.2.3"}, "192.0.2.3"),
        ("pipes", {"TCPREMOTEIP": "::ffff:192.0.2.1", "TCPREMOTEPORT": "98"}, "192.0.2.1"),
    ],
)
def test_client_s_address_is_passed_on(local, client, env, ip):
    environment = local(client=client, env=env).environment()
    assert environment["TCPREMOTEIP"].removeprefix("::ffff:") == ip
    assert environment["TCPREMOTEPORT"].isdigit()


def test_client_without_an_address_is_given_one(local):
    """Courier's imapd exits at once, silently, without."""
    environment = local(client="pipes").environment()
    assert environment["TCPREMOTEIP"]
    assert environment["TCPREMOTEPORT"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_password_is_nowhere(local, protocol):
    found = local(protocol)
    for name in ("environ", "cmdline"):
        assert "secret" not in found[name]
    assert base64.b64encode(b"secret").decode() not in found["environ"]


@pytest.mark.parametrize(("said", "expected"), [(b"", "0"), (b"UTF8\r\n", "1")])
def test_utf8_of_pop3_is_told(local, said, expected):
    assert local("pop3", login=said + LOGIN["pop3"]).environment()["UTF8"] == expected


CLUTTERED = ("/bin/sh", "-c", 'exec "$0" "$@" 3<&0 7</dev/null 9>&1')


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("client", CLIENTS)
def test_descriptors_are_the_connection_and_stderr(site, greeted, home, protocol, client):
    site.account("u1", home=str(home))
    session = greeted(
        protocol, "/bin/sh", "-c", "ls /proc/$$/fd; true", "sh", "Maildir", client=client, wrapped=CLUTTERED
    )
    session.send(LOGIN[protocol])
    assert session.rest().split()[-3:] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("client", CLIENTS)
def test_connection_blocks(local, client):
    found = local(client=client)
    for fd in ("fd0", "fd1"):
        flags = re.search(r"flags:\s+0(\d+)", found[fd])
        assert flags
        assert not int(flags[1], 8) & os.O_NONBLOCK


def test_signals_are_as_a_c_program_expects(local):
    found = local()
    assert found.signals("SigIgn") == found.signals("SigBlk") == set()


def test_signals_that_the_activator_ignores_stay_ignored(local):
    found = local(wrapped=("/bin/sh", "-c", 'trap "" USR1; exec "$0" "$@"'))
    assert found.signals("SigIgn") == {10}


def test_limits_are_the_activator_s(local):
    found = local(wrapped=("/bin/sh", "-c", 'ulimit -Sn 100; ulimit -c 0; exec "$0" "$@"'))
    assert re.search(r"Max open files +100 ", found["limits"])


def test_no_timer_survives(local):
    """Whatever watched over the login deadline does not strike the local server."""
    found = local(wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=0.5))
    assert found.session.silent(0.8)
    found.session.send(b"echo\r\n")
    assert found.session.line() == b"echo\r\n"


@pytest.mark.parametrize(
    ("setting", "umask"), [({"IMAP_UMASK": "027"}, "0027"), ({}, "0026"), ({"IMAP_UMASK": "077"}, "0077")]
)
def test_umask(site, local, setting, umask):
    site.set(**setting)
    assert local(wrapped=("/bin/sh", "-c", 'umask 026; exec "$0" "$@"'))["umask"].strip() == umask


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "login",
    [
        b"a1 LOGIN u1 secret\r\n",
        b"a1 LOGIN {2+}\r\nu1 {6+}\r\nsecret\r\n",
        b"a1 AUTHENTICATE PLAIN " + b64("", "u1", "secret") + b"\r\n",
    ],
)
def test_what_follows_the_login_is_the_local_server_s(local, client, login):
    more = b"a2 APPEND x {3+}\r\n\0\r\xff\r\n" + b"".join(b"a%d NOOP\r\n" % number for number in range(4000))
    session = local(login=login + more, client=client).session
    assert session.exactly(len(more)) == more
    session.send(b"end")
    assert session.exactly(3) == b"end"


@pytest.mark.parametrize("client", CLIENTS)
def test_what_follows_the_pop3_login_is_the_local_server_s(local, client):
    more = b"STAT\r\n" * 6000
    assert local("pop3", login=LOGIN["pop3"] + more, client=client).session.exactly(len(more)) == more


def test_tag_is_told_as_it_was_sent(site, greeted, home):
    site.account("u1", home=str(home))
    session = greeted("imap", *SERVER)
    session.send(b"My.Tag-1 LOGIN u1 secret\r\n")
    assert session.line() == b"My.Tag-1 OK LOGIN Ok.\r\n"


def test_default_domain_is_part_of_the_address(site, greeted, home):
    site.set(DEFDOMAIN="@example.com")
    site.account("u1@example.com", home=str(home))
    session = greeted("imap", *SERVER)
    session.send(LOGIN["imap"])
    session.until(b"a1 OK")
    assert Local(session, home).environment()["AUTHENTICATED"] == "u1@example.com"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("route", ["proxy off", "no mailhost", "empty mailhost", "PROXY_HOSTNAME", "gethostname"])
def test_routes_that_end_here(site, local, protocol, route):
    if route == "proxy off":
        site.set(IMAP_PROXY=0, POP3_PROXY=0)
    mailhost = {
        "proxy off": "elsewhere.invalid",
        "empty mailhost": "",
        "PROXY_HOSTNAME": "FRONT.Example.",
        "gethostname": "Here.Example.",
    }.get(route)
    options = "wbnodsn=1" if mailhost is None else f"wbnodsn=1,mailhost={mailhost}"
    found = local(protocol, account={"options": options}, hostname="here.example" if route == "gethostname" else "")
    if "mailhost" in route:
        assert "u1, ip=[" in found.session.log.find("WARN: proxy enabled, but no proxy host defined for ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"uid": "0"}, "uid"),
        ({"uid": "0", "gid": "0"}, "uid"),
        ({"uid": "4294967296"}, "uid"),
        ({"uid": "-1"}, "uid"),
        ({"uid": None}, "uid"),
        ({"uid": "4294967295"}, "uid"),
        ({"gid": None}, "gid"),
        ({"home": None}, "home"),
        ({"home": "/no/such/home"}, "/no/such/home"),
        ({"home": ""}, "home"),
        ({"uid": "root"}, "uid"),
    ],
)
def test_account_that_cannot_live_here(site, greeted, home, protocol, fields, said):
    site.account("u1", **{"home": str(home)} | fields)
    session = greeted(protocol, *SERVER)
    session.send(LOGIN[protocol])
    reply = session.until((b"a1 ", b"-ERR")[protocol == "pop3"])[-1]
    assert reply.startswith((b"a1 NO [", b"-ERR [SYS/"))
    assert said in session.log.find("user=u1", "LOGIN ")
    assert not list(home.iterdir())
    session.half_close()
    session.rest()
    assert session.exit_status() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("server", ["/no/such/server", "/etc/passwd", "/"])
def test_local_server_that_cannot_be_run(site, greeted, home, protocol, server):
    site.account("u1", home=str(home))
    session = greeted(protocol, server, "Maildir")
    session.send(LOGIN[protocol])
    assert session.until((b"a1 ", b"-ERR")[protocol == "pop3"])[-1].startswith(TEMPORARY[protocol])
    assert server in session.log.find("LOGIN DEFERRED, user=u1, ip=[")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_local_server_at_all(site, greeted, protocol):
    """A front without mailboxes, and an account that should have a mailhost."""
    site.account("u1")
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    assert session.until((b"a1 ", b"-ERR")[protocol == "pop3"])[-1].startswith((b"a1 NO [", b"-ERR [SYS/"))
    session.log.find("LOGIN ", "user=u1")


def test_stderr_stays_the_activator_s(local):
    found = local()
    assert found["stderr"].startswith("pipe:")
