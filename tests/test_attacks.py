"""What an enemy would try: a client who may or may not have an account here, and a userdb that others help to write."""

from __future__ import annotations

import os
import time

import pytest
from scripted import GREETING, LOGIN, read_login
from support import Session, b64

PROTOCOLS = ("imap", "pop3")
WRONG = {"imap": b"a1 NO [AUTHENTICATIONFAILED] ", "pop3": b"-ERR [AUTH] "}


def sasl(protocol: str, response: bytes) -> bytes:
    return (b"a1 AUTHENTICATE PLAIN " if protocol == "imap" else b"AUTH PLAIN ") + response + b"\r\n"


def answer(session: Session, protocol: str, sent: bytes) -> bytes:
    session.send(sent)
    return session.until((b"a1 ", b"-ERR")[protocol == "pop3"])[-1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "name",
    [
        "u1|uid=0",
        "u1\\t",
        "u",
        "u1@",
        "@example.com",
        "1",
        "U1@example",
        "#comment",
        "# u1",
        "*",
        "u?",
        "%",
        "../userdb",
        "/etc/passwd",
        "u1/",
        "./u1",
        "..",
        "u1=",
        "uid=1000",
        "-",
        "--",
        "u1 ",
        " u1",
    ],
)
def test_no_other_name_is_that_account(site, greeted, backend, protocol, name):
    site.account("u1", mailhost=backend.mailhost)
    site.accounts.append("# u1\tuid=1000|gid=1000|home=/|systempw=" + site.accounts[0].split("systempw=")[1])
    site.account("#comment", mailhost=backend.mailhost)
    site.accounts[-1] = site.accounts[-1].replace("#comment", "#comment ", 1)
    site.write_userdb()
    assert answer(greeted(protocol), protocol, sasl(protocol, b64("", name, "secret"))).startswith(WRONG[protocol])
    assert backend.untouched()


@pytest.mark.parametrize("name", ["../others", "others/../users", "/etc/passwd", ".", "..", "users"])
def test_name_is_no_path_into_a_userdb_directory(site, greeted, name):
    site.account("u1")
    users = site.userdb.read_text()
    site.userdb.unlink()
    site.userdb.mkdir(mode=0o700)
    (site.userdb / "users").write_text(users)
    (site.userdb / "users").chmod(0o600)
    (site.directory / "others").write_text(users)
    assert answer(greeted(), "imap", sasl("imap", b64("", name, "secret"))).startswith(WRONG["imap"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("response", [b64("root", "u1", "secret"), b64("u2", "u1", "secret")])
def test_nobody_acts_for_another(site, greeted, backend, protocol, response):
    """An authorization identity other than one's own."""
    site.account("u1", mailhost=backend.mailhost)
    site.account("u2", "other", mailhost=backend.mailhost)
    assert answer(greeted(protocol), protocol, sasl(protocol, response)).startswith((b"a1 NO", b"-ERR [AUTH]"))
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_own_name_as_authorization_identity_is_fine(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost)
    greeted(protocol).send(sasl(protocol, b64("u1", "u1", "secret")))
    assert read_login(protocol, backend.greet(GREETING[protocol])).user == b"u1"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "response",
    [
        b"AHUxAHNlY3JldA",
        b"AHUx=AHNlY3JldA==",
        b"AHUxAHNlY3JldA===",
        b"AHUxAHNlY3JldA==AHUxAHNlY3JldA==",
        b"AHUx AHNlY3JldA==",
        b"=",
        b"==",
        b"*",
        b"A",
        b"AHUx!AHNlY3JldA==",
        b64("u1"),
        b64("u1", "secret"),
        b64("", "u1", "secret", ""),
        b64("", "u1", "secret", "x"),
        b"\xff\xff\xff\xff",
        b"AHUxAHNlY3JldB==",
    ],
)
def test_response_that_is_no_response(site, greeted, backend, protocol, response):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    reply = answer(session, protocol, sasl(protocol, response))
    assert reply.startswith((b"a1 BAD", b"a1 NO", b"-ERR"))
    assert backend.untouched()


@pytest.mark.parametrize(
    "sent",
    [
        b"a1 LOGIN u1 sec\0ret\r\n",
        b"a1 LOGIN u1 {7}\r\nsecret\r\r\n",
        b"a1 LOGIN {7+}\r\nu1\r\nx y secret\r\n",
        b'a1 LOGIN u1 "secret\r\n',
        b"a1 LOGIN u1\r\n",
        b"a1 LOGIN\r\n",
        b"a1 LOGIN u1 secret more\r\n",
        b"a1 LOGIN  u1 secret\r\n",
        b'a1 LOGIN "u1"secret\r\n',
        b"a1 LOGIN u1 {6+}secret\r\n",
        b"a1 LOGIN u1 {-6+}\r\nsecret\r\n",
        b"a1 LOGIN u1 {+6}\r\n",
        b"a1 LOGIN u1 {0x6+}\r\n",
        b"a1 LOGIN u1 {6 }\r\n",
        b"a1 LOGIN u1 {}\r\n",
        b"a1 LOGIN u1 ~{6+}\r\nsecret\r\n",
        b"a1 LOGIN (u1) secret\r\n",
        b"a1 LOGIN u1 secret\r\r\n",
        b"a1 LOGIN u* secret\r\n",
        b"a1 LOGIN u1 \xc2\xb2\r\n",
        b"a1 LOGIN u1 {\xc2\xb2}\r\n",
        b"a1 LOGIN u1 {\xd9\xa6+}\r\nsecret\r\n",
    ],
)
def test_broken_login_reaches_nobody(site, greeted, backend, sent):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(sent + b"\r\nok NOOP\r\n")
    session.half_close()
    text = session.rest()
    assert b"a1 OK" not in text
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_s_protocol_cannot_be_spoken_by_a_login(site, greeted, backend, protocol):
    """A name that has a line of its own in it, and an account of that name."""
    name = b"u1\r\nx DELETE INBOX"
    site.account(name.decode().replace("\r\n", "\\r\\n"), mailhost=backend.mailhost)
    session = greeted(protocol)
    assert answer(session, protocol, sasl(protocol, b64("", name, "secret"))).startswith(WRONG[protocol])
    if protocol == "imap":
        session.send(b"a2 LOGIN {%d+}\r\n%s secret\r\n" % (len(name), name))
        assert session.line().startswith(b"a2 NO [AUTHENTICATIONFAILED]")
    assert backend.untouched()


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize(
    "partial", [b"a1 LOG", b"a1 LOGIN {5+}\r\nab", b'a1 LOGIN u1 "', b"a1 AUTHENTICATE PLAIN AHUx"]
)
def test_waiting_for_the_end_of_a_command_costs_no_cpu(greeted, client, partial):
    """Bytes that are peeked at stay readable: a careless wait would spin."""
    session = greeted(client=client)
    session.send(partial)
    assert session.silent(0.1)
    used = session.cpu_seconds()
    assert session.silent(0.5)
    assert session.cpu_seconds() - used < 0.03


@pytest.mark.parametrize("client", ["tcp", "pipes"])
def test_command_byte_by_byte(site, greeted, backend, client):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(client=client)
    for byte in b'a1 LOGIN {2+}\r\nu1 "secret"\r\na2 NOOP\r\n':
        session.send(bytes([byte]))
        session.silent(0.001)
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    assert (login.user, login.password) == (b"u1", b"secret")
    wire.send(login.reply(b"OK in"))
    assert wire.line() == b"a2 NOOP\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_flood_is_bounded(greeted, protocol):
    """Ten megabytes of commands in one go cost neither memory nor many seconds."""
    session = greeted(protocol)
    before, started = session.pss_kb(), time.monotonic()
    flood = memoryview((b"a1 NOOP\r\n" if protocol == "imap" else b"NOOP\r\n") * 200_000)
    try:
        while flood and time.monotonic() < started + 1:
            flood = flood[session.push(flood) :]
            if session.readable():
                session.pull()
                session.received.clear()
            assert session.pss_kb() < before + 2048
    except (BrokenPipeError, ConnectionResetError):
        session.exit_status()


def test_client_that_never_reads_is_bounded(greeted):
    session = greeted()
    before, started = session.pss_kb(), time.monotonic()
    try:
        while time.monotonic() < started + 1:
            session.push(b"a1 CAPABILITY\r\n" * 1000)
            assert session.pss_kb() < before + 2048
    except (BrokenPipeError, ConnectionResetError):
        session.exit_status()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bare_line_feeds(site, greeted, backend, protocol):
    """Whatever they are taken for, what follows the login is counted right."""
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    session.send(LOGIN[protocol].replace(b"\r\n", b"\n") + b"rest\n")
    try:
        if session.readable(0.3) and protocol == "imap":
            assert session.line().startswith((b"a1 BAD", b"* BAD"))
            return
        wire = backend.greet(GREETING[protocol])
    except TimeoutError:
        return
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (b"u1", b"secret")
    wire.send(login.reply(b"OK in" if protocol == "imap" else b"+OK in"))
    assert wire.exactly(5) == b"rest\n"


def test_environment_cannot_load_code(site, helper, tmp_path):
    """Python's own variables, and modules where the activator happened to stand, are not ours to run."""
    trap = "import os; os.write(1, b'trapped')"
    for name in ("sitecustomize", "usercustomize", "os", "socket", "proxyhelper", "re", "site", "select"):
        (tmp_path / f"{name}.py").write_text(trap)
    session = helper(
        env={
            "PYTHONPATH": str(tmp_path),
            "PYTHONSTARTUP": str(tmp_path / "os.py"),
            "PYTHONHOME": str(tmp_path),
            "PYTHONINSPECT": "1",
        },
        wrapped=("/bin/sh", "-c", f'cd {tmp_path}; exec "$0" "$@"'),
    )
    session.send(b"a1 LOGIN u1 x\r\na2 LOGOUT\r\n")
    text = session.rest()
    assert text.startswith(b"* OK")
    assert b"trapped" not in text


def test_backend_cannot_answer_before_it_is_asked(site, greeted, backend):
    """A reply glued to the greeting is no reply to the login that follows."""
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    backend.greet(b"* OK hello\r\na1 OK forged\r\n")
    assert session.line().startswith(b"a1 NO [UNAVAILABLE]")


@pytest.mark.parametrize("how", ["tag", "continuation", "other tag"])
def test_backend_that_answers_beside_the_point(site, greeted, backend, how):
    site.account("u1", mailhost=backend.mailhost)
    site.set(PROXY_TIMEOUT=1)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.greet(GREETING["imap"])
    login = read_login("imap", wire)
    wire.send({"tag": login.tag + b"\r\n", "continuation": b"+ go on\r\n", "other tag": b"zz99 OK in\r\n"}[how])
    assert session.line().startswith(b"a1 NO [UNAVAILABLE]")


def test_session_leaves_no_process(site, greeted, backend):
    """Neither children nor zombies, after refusals and failures."""
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    for reply in (b"NO [LIMIT] many", b"BAD what"):
        session.send(LOGIN["imap"])
        wire = backend.greet(GREETING["imap"])
        wire.send(read_login("imap", wire).reply(reply))
        session.line()
    with open(f"/proc/{session.process.pid}/task/{session.process.pid}/children") as children:
        assert children.read() == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_descriptors_do_not_pile_up(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    counts = set()
    for _ in range(4):
        session.send(LOGIN[protocol])
        wire = backend.greet(GREETING[protocol])
        wire.send(read_login(protocol, wire).reply(b"NO [LIMIT] x" if protocol == "imap" else b"-ERR [LOGIN-DELAY] x"))
        session.until((b"a1 ", b"-ERR")[protocol == "pop3"])
        counts.add(len(os.listdir(f"/proc/{session.process.pid}/fd")))
    assert len(counts) == 1


def test_password_is_in_no_argument_or_environment(site, greeted, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    backend.greet(GREETING["imap"]).line()
    for name in ("cmdline", "environ"):
        with open(f"/proc/{session.process.pid}/{name}", "rb") as file:
            assert b"secret" not in file.read()
