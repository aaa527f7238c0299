"""Reaching a mailhost: its forms, addresses and ports, one deadline for all, and what may go wrong on the way."""

from __future__ import annotations

import contextlib
import errno
import pwd
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scripted import GREETING, LOGIN, Backend, Unreachable, closed_port, read_login, reply_to
from support import need, patched

from proxyhelper.backend import Target, _guard_against_loop
from proxyhelper.ends import Closed

PROTOCOLS = ("imap", "pop3")
OK = {"imap": b"OK done", "pop3": b"+OK done"}
TEMPORARY = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
TRANSIENT = {"imap": b"NO [UNAVAILABLE] later", "pop3": b"-ERR [SYS/TEMP] later"}
REFUSAL = {"imap": b"NO [OVERQUOTA] you have too much", "pop3": b"-ERR [IN-USE] somebody reads it"}
LOOP = {"imap": b"a1 NO [SERVERBUG] ", "pop3": b"-ERR [SYS/PERM] "}


BROKEN = {
    "closes at once": [],
    "closes within its greeting": [b"* OK half a lin"],
    "garbage": [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "binary garbage": [b"\x16\x03\x01\0\xff" * 50 + b"\r\n"],
    "empty line": [b"\r\n"],
    "BYE": [b"* BYE too busy\r\n"],
    "refusing greeting": [b"-ERR too busy\r\n"],
    "PREAUTH": [b"* PREAUTH somebody else's mailbox\r\n"],
    "closes after its greeting": {"imap": [b"* OK hello\r\n"], "pop3": [b"+OK hello\r\n"]},
    "closes within its reply": {"imap": [b"* OK hello\r\n", b"* OK and then"], "pop3": [b"+OK hello\r\n", b"+O"]},
    "says goodbye to the login": {
        "imap": [b"* OK hello\r\n", b"* BYE going down\r\n"],
        "pop3": [b"+OK hello\r\n", b"-ERR [SYS/TEMP] x\r\n"],
    },
    "nonsense for a reply": {"imap": [b"* OK hello\r\n", b"nonsense\r\n"], "pop3": [b"+OK hello\r\n", b"nonsense\r\n"]},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_backend_is_temporary(site, greeted, backend, protocol, how, ending):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "5"})
    session.send(LOGIN[protocol])
    wire = backend.accept()
    words = BROKEN[how] if isinstance(BROKEN[how], list) else BROKEN[how][protocol]
    for word in words:
        wire.send(word)
        if word.endswith(b"hello\r\n"):
            wire.line()
    wire.close() if ending == "close" else wire.reset()
    reply = reply_to(session, protocol)
    assert reply.startswith(TEMPORARY[protocol]) or (
        how.startswith("says goodbye") and reply == b"-ERR [SYS/TEMP] x\r\n"
    )
    line = session.log.find("LOGIN ", "user=u1")
    assert "PREAUTH" in line or how != "PREAUTH" or ending == "reset"
    session.send(b"a2 NOOP\r\n" if protocol == "imap" else b"CAPA\r\n")
    assert session.line().startswith((b"a2 OK", b"+OK"))


ENDLESS = {"no line end": b"x" * 65536, "untagged lines": b"* OK still busy\r\n" * 4000, "blank lines": b"\r\n" * 30000}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("stage", ["greeting", "reply"])
def test_endless_backend_is_bounded(site, greeted, backend, protocol, what, stage):
    site.account("u1", mailhost=backend.mailhost)
    site.set(PROXY_TIMEOUT=1)
    session = greeted(protocol, wrapped=patched("proxyhelper.backend", REPLY_SECONDS=1.0))
    session.send(LOGIN[protocol])
    wire = backend.accept()
    if stage == "reply":
        wire.send(GREETING[protocol])
        wire.line()
    started, told = time.monotonic(), TEMPORARY[protocol].strip()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while not (session.readable() and session.pull() and told in session.received):
            wire.push(ENDLESS[what])
            assert session.pss_kb() < 20_000
            assert time.monotonic() < started + 5
    assert session.until(told)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["silent", "slow greeting", "unreachable"])
def test_timeout_is_one_deadline(site, greeted, protocol, how):
    site.set(PROXY_TIMEOUT=1)
    with closing((Unreachable if how == "unreachable" else Backend)()) as backend:
        site.account("u1", mailhost=backend.mailhost)
        session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "9"})
        session.send(LOGIN[protocol])
        sent = time.monotonic()
        if how == "slow greeting":
            wire = backend.accept()
            while not session.readable(0.1) and time.monotonic() < sent + 3:
                wire.push(b"x")
        assert reply_to(session, protocol).startswith(TEMPORARY[protocol])
        assert 0.9 < time.monotonic() - sent < 2
        assert backend.host in session.log.find("LOGIN DEFERRED")


def hosts_file(tmp_path: Path, *addresses: str) -> dict[str, Path]:
    """A name with several addresses, the first of which getaddrinfo gives first."""
    file = tmp_path / "hosts"
    file.write_text("".join(f"{address} two.example\n" for address in addresses))
    return {"/etc/hosts": file}


@pytest.fixture
def two(site, tmp_path) -> Iterator[tuple[Backend, Backend, dict[str, Path]]]:
    """Two backends under one name, and the mounts that make it so."""
    with closing(Backend("127.0.0.2")) as first, closing(Backend("127.0.0.3", first.port)) as second:
        site.account("u1", mailhost=f"two.example:{first.port}")
        yield first, second, hosts_file(tmp_path, first.host, second.host)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["transient", "closes", "closes after greeting", "resets", "nobody there"])
def test_next_address(two, greeted, protocol, how):
    first, second, mounts = two
    session = greeted(protocol, mounts=mounts)
    if how == "nobody there":
        first.listener.close()
    session.send(LOGIN[protocol])
    if how != "nobody there":
        wire = first.accept()
        if how in ("transient", "closes after greeting"):
            wire.send(GREETING[protocol])
        if how == "transient":
            wire.send(read_login(protocol, wire).reply(TRANSIENT[protocol]))
        else:
            wire.reset() if how == "resets" else wire.close()
    wire = second.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(OK[protocol]))
    assert session.until((b"a1 ", b"+OK done")[protocol == "pop3"])[-1].endswith(OK[protocol] + b"\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_both_addresses_transient(two, greeted, protocol):
    first, second, mounts = two
    session = greeted(protocol, mounts=mounts)
    session.send(LOGIN[protocol])
    for backend in (first, second):
        wire = backend.greet(GREETING[protocol])
        wire.send(read_login(protocol, wire).reply(TRANSIENT[protocol]))
    assert reply_to(session, protocol).startswith(TEMPORARY[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusal_is_never_repeated_at_another_address(two, greeted, protocol):
    first, second, mounts = two
    session = greeted(protocol, mounts=mounts)
    session.send(LOGIN[protocol])
    wire = first.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(REFUSAL[protocol]))
    assert reply_to(session, protocol).endswith(REFUSAL[protocol] + b"\r\n")
    assert second.untouched()


@pytest.mark.parametrize("how", ["unreachable", "silent"])
def test_deadline_is_shared_by_the_addresses(site, greeted, tmp_path, how):
    site.set(PROXY_TIMEOUT=2)
    first = (Unreachable if how == "unreachable" else Backend)("127.0.0.2")
    with closing(first), closing(Backend("127.0.0.3", first.port)) as second:
        site.account("u1", mailhost=f"two.example:{first.port}")
        session = greeted(mounts=hosts_file(tmp_path, first.host, second.host))
        session.send(LOGIN["imap"])
        sent = time.monotonic()
        answer = session.line()
        assert time.monotonic() - sent < 3
        assert answer.startswith(TEMPORARY["imap"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("form", "host"), [("{host}:{port}", "127.0.0.1"), ("[{host}]:{port}", "::1"), ("LocalHost:{port}", "127.0.0.1")]
)
def test_mailhost_with_a_port(site, greeted, protocol, form, host):
    with closing(Backend(host)) as backend:
        site.account("u1", mailhost=form.format(host=host, port=backend.port))
        greeted(protocol).send(LOGIN[protocol])
        backend.accept()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("form", "host"), [("{host}", "127.0.0.1"), ("{host}", "::1"), ("[{host}]", "::1"), ("LocalHost", "127.0.0.1")]
)
def test_port_of_a_site(site, greeted, protocol, form, host):
    with closing(Backend(host)) as backend:
        site.set(**{f"{protocol.upper()}_PROXY_PORT": backend.port})
        site.account("u1", mailhost=form.format(host=host))
        greeted(protocol).send(LOGIN[protocol])
        backend.accept()


@pytest.mark.parametrize(("protocol", "port"), [("imap", 143), ("pop3", 110)])
def test_port_by_default(site, greeted, protocol, port):
    try:
        backend = Backend("127.0.0.77", port)
    except OSError:
        need(False, f"port {port} to listen on")
    with closing(backend):
        site.account("u1", mailhost="127.0.0.77")
        greeted(protocol).send(LOGIN[protocol])
        backend.accept()


@pytest.mark.parametrize(
    "mailhost",
    [
        "host:port",
        "host:",
        ":143",
        "host:0",
        "host:65536",
        "[::1",
        "[::1]x",
        "[::1]:",
        "ho st",
        "-",
        "x" * 300,
        "a..b",
        "host:143:",
        "h\u00e4st.example",
        "host/../x",
    ],
)
def test_unusable_mailhost_is_temporary(site, greeted, mailhost):
    site.account("u1", mailhost=mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    assert session.line().startswith(TEMPORARY["imap"])
    session.log.find("LOGIN DEFERRED, user=u1, ip=[")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_loop_is_seen_and_explained(site, greeted, protocol):
    """The mailhost is this very service, under a name that is not known for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        site.account("u1", mailhost=f"localhost:{port}")
        session = greeted(protocol, client=listener)
        session.send(LOGIN[protocol])
        assert reply_to(session, protocol).startswith(LOOP[protocol])
        line = session.log.find("LOGIN REFUSED", "user=u1")
        assert "PROXY_HOSTNAME" in line
        assert "front.example" in line
        assert "localhost" in line
        assert socket.gethostname() in line


def test_loop_is_seen_where_the_kernel_connects_two_addresses_of_this_host(site, greeted):
    """As with the address that Debian's /etc/hosts gives the host's own name."""
    with socket.create_server(("127.0.1.1", 0)) as listener:
        site.account("u1", mailhost=f"127.0.1.1:{listener.getsockname()[1]}")
        session = greeted(client=listener)
        session.send(LOGIN["imap"])
        assert session.line().startswith(LOOP["imap"])


@pytest.mark.parametrize("client", ["pipes", "socketpair"])
def test_loop_is_seen_by_what_the_activator_says(site, greeted, client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        site.account("u1", mailhost=f"127.0.0.1:{port}")
        session = greeted(client=client, env={"TCPLOCALIP": "::ffff:127.0.0.1", "TCPLOCALPORT": str(port)})
        session.send(LOGIN["imap"])
        assert session.line().startswith(LOOP["imap"])


def test_same_port_of_another_host_is_no_loop(site, greeted):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        closing(Backend("127.0.0.2", listener.getsockname()[1])) as backend,
    ):
        site.account("u1", mailhost=backend.mailhost)
        greeted(client=listener).send(LOGIN["imap"])
        backend.accept()


def test_other_port_of_this_host_is_no_loop(site, greeted, backend):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.account("u1", mailhost=backend.mailhost)
        greeted(client=listener).send(LOGIN["imap"])
        backend.accept()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("user", ["", "nobody", "daemon"])
def test_nothing_relays_as_root(site, greeted, backend, protocol, user):
    site.set(**{"PROXY_USER": user} if user else {})
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    wire = backend.accept()
    wire.send(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(OK[protocol]))
    session.until((b"a1 ", b"+OK done")[protocol == "pop3"])
    status = session.status()
    uids, gids = status["Uid"].split(), status["Gid"].split()
    assert len(set(uids)) == len(set(gids)) == 1
    assert "0" not in (uids[0], gids[0])
    assert "0" not in status["Groups"].split()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
    if user:
        assert int(uids[0]) == pwd.getpwnam(user).pw_uid


def test_unknown_proxy_user_is_temporary(site, greeted, backend):
    site.set(PROXY_USER="no-such-user")
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    assert session.line().startswith(TEMPORARY["imap"])
    assert "no-such-user" in session.log.find("LOGIN DEFERRED")
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_port_for_a_closed_service_is_named_in_the_log(site, greeted, protocol):
    mailhost = closed_port()
    site.account("u1", mailhost=mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol])
    line = session.log.find("LOGIN DEFERRED")
    assert mailhost.split(":")[1] in line
    assert "refused" in line.lower()


def test_connection_that_is_reset_at_once():
    """The kernel then knows no peer any more: another address may do better."""

    class Reset:
        def getsockname(self):
            return "127.0.0.1", 1

        def getpeername(self):
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with pytest.raises(Closed, match="not connected"):
        _guard_against_loop(Reset(), Target("there", 143, 1.0))
