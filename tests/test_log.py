"""One line per event, in Courier's form, to whichever sink the activator gave; and no line that a client can forge."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import GREETING, LOGIN, log_in, read_login
from support import DEADLINE, b64

PROTOCOLS = ("imap", "pop3")
CLIENTS = ("tcp", "socketpair", "pipes")
AS_JOURNAL = ("/bin/sh", "-c", 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$0" "$@"')
LINE = re.compile(
    r"(?P<prefix>[A-Z]+: |<\d>)(?P<event>[A-Za-z ]+)(, user=(?P<user>[^,\[\] \x00-\x1f\x7f]*))?, "
    r"ip=\[(?P<ip>[^\]]*)\], port=\[(?P<port>\d*)\], session=(?P<session>[0-9a-f]{16})(?P<more>[,:].*)?\n"
)


class Syslog:
    """/dev/log, as the helper sees it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.path.chmod(0o666)
        self.socket.settimeout(DEADLINE)
        self.mounts = {"/dev/log": self.path}

    def find(self, *words: str) -> str:
        while True:
            text = self.socket.recv(65536).decode()
            if all(word in text for word in words):
                return text


@pytest.fixture
def syslog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Syslog]:
    log = Syslog(tmp_path_factory.mktemp("syslog"))
    yield log
    log.socket.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_events_of_a_proxied_session(site, greeted, backend, protocol):
    site.account("u1@example.com", mailhost=backend.mailhost)
    session = greeted(protocol)
    address = f"ip=[::ffff:127.0.0.1], port=[{session.socket.getsockname()[1]}]"
    connection = re.fullmatch(
        rf"DEBUG: Connection, {re.escape(address)}(, session=[0-9a-f]{{16}})\n", session.log.line().decode()
    )
    assert connection
    address += connection[1]
    session.send(LOGIN[protocol].replace(b"u1", b"u1@example.com").replace(b"secret", b"wrong"))
    failed = f"INFO: LOGIN FAILED, user=u1@example.com, {address}, protocol={protocol.upper()}"
    assert session.log.find("FAILED").startswith(failed)
    session.until((b"a1 ", b"-ERR")[protocol == "pop3"])
    session.send(LOGIN[protocol].replace(b"u1", b"u1@example.com"))
    wire = backend.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(b"OK in" if protocol == "imap" else b"+OK in"))
    tail = f"user=u1@example.com, {address}, protocol={protocol.upper()}, backend={backend.mailhost}"
    assert session.log.find("LOGIN") == f"INFO: LOGIN, {tail}\n"
    session.until((b"a1 ", b"+OK in")[protocol == "pop3"])
    session.send(b"x" * 100)
    wire.exactly(100)
    wire.send(b"y" * 200)
    session.exactly(200)
    wire.close()
    session.close()
    logout = session.log.line().decode()
    assert re.fullmatch(f"INFO: LOGOUT, {re.escape(tail)}, rcvd=100, sent=2\\d\\d, time=[01]\n", logout)
    assert session.log.rest() == b""


def test_addresses_in_ipv6(greeted):
    session = greeted(client="tcp6")
    assert "ip=[::1], port=[" in session.log.find("Connection")


@pytest.mark.parametrize("client", CLIENTS)
def test_journal_gets_priorities(site, greeted, client):
    site.account("u1", mailhost="127.0.0.1:1")
    session = greeted(client=client, wrapped=AS_JOURNAL)
    session.send(b"a1 LOGIN u1 wrong\r\na2 LOGIN u1 secret\r\na3 LOGOUT\r\n")
    session.rest()
    lines = session.log.rest().decode().splitlines()
    assert [line[:15] for line in lines] == ["<7>Connection, ", "<6>LOGIN FAILED", "<3>LOGIN DEFERR", "<6>LOGOUT, ip=["]


def test_journal_stream_of_somebody_else_is_not_ours(greeted):
    assert greeted(env={"JOURNAL_STREAM": "8:12345"}).log.line().startswith(b"DEBUG: ")
    assert greeted(env={"JOURNAL_STREAM": "nonsense"}).log.line().startswith(b"DEBUG: ")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_syslog_where_stderr_is_the_connection(site, helper, syslog, protocol, client):
    session = helper(protocol, client=client, stderr_is_connection=True, mounts=syslog.mounts)
    session.line()
    session.send(LOGIN[protocol])
    failed = syslog.find("LOGIN FAILED")
    ident = "imapd" if protocol == "imap" else "pop3d"
    mail_info = (2 << 3) + 6
    assert re.match(rf"<{mail_info}>\w+ +\d+ [\d:]+ {ident}\[\d+\]: LOGIN FAILED, user=u1, ip=\[", failed)
    assert "INFO" not in failed
    session.half_close()
    for line in session.rest().splitlines():
        assert line.startswith((b"a1 ", b"+OK", b"-ERR"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("told", ["{}_TLS", "PROXY_TLS_WRAP"])
def test_syslog_ident_behind_tls(certified, helper, syslog, protocol, told):
    """Whose ports imaps and pop3s are, whoever has done the TLS."""
    helper(protocol, stderr_is_connection=True, mounts=syslog.mounts, env={told.format(protocol.upper()): "1"})
    assert {"imap": " imapd-ssl[", "pop3": " pop3d-ssl["}[protocol] in syslog.find("Connection")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_syslog_ident_after_starttls(secured, syslog, protocol):
    _, tls = secured(protocol, stderr_is_connection=True, mounts=syslog.mounts)
    assert {"imap": " imapd[", "pop3": " pop3d["}[protocol] in syslog.find(": TLS, ip=[")
    tls.send(LOGIN[protocol])
    assert {"imap": " imapd[", "pop3": " pop3d["}[protocol] in syslog.find("LOGIN FAILED")


def test_syslog_goes_on_in_the_relay(site, helper, backend, syslog):
    site.account("u1", mailhost=backend.mailhost)
    session = helper(stderr_is_connection=True, mounts=syslog.mounts)
    session.line()
    wire = log_in("imap", session, backend)
    assert "LOGIN, user=u1" in syslog.find("LOGIN")
    wire.close()
    session.close()
    assert "LOGOUT, user=u1" in syslog.find("LOGOUT")


@pytest.mark.parametrize("path", ["nobody listens", "no socket"])
def test_no_syslog_at_all_disturbs_nobody(site, helper, backend, tmp_path, path):
    dead = tmp_path / "dead"
    if path == "nobody listens":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(dead))
    else:
        dead.touch()
    site.account("u1", mailhost=backend.mailhost)
    session = helper(stderr_is_connection=True, mounts={"/dev/log": dead})
    assert session.line().startswith(b"* OK")
    wire = log_in("imap", session, backend)
    wire.send(b"* 1 EXISTS\r\n")
    assert session.line() == b"* 1 EXISTS\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/null", "2</dev/null"])
def test_stderr_that_is_nothing(site, helper, backend, protocol, closed):
    """No connection of the session may take the number of a closed stderr."""
    site.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, wrapped=("/bin/sh", "-c", f'exec "$0" "$@" {closed}'))
    session.line()
    wire = log_in(protocol, session, backend)
    wire.send(b"data\r\n")
    session.send(b"back\r\n")
    assert (session.line(), wire.line()) == (b"data\r\n", b"back\r\n")
    assert wire.silent(0.02)
    assert session.silent(0.02)


def test_stderr_that_nobody_reads_any_more(site, helper, backend):
    site.account("u1", mailhost=backend.mailhost)
    session = helper()
    session.line()
    session.log.close()
    wire = log_in("imap", session, backend)
    wire.send(b"still here\r\n")
    assert session.line() == b"still here\r\n"


HOSTILE = [
    "x, ip=[203.0.113.9]",
    "x], ip=[203.0.113.9",
    "a b",
    "a,b",
    "[a]",
    "x\\",
    "\\x2c",
    "u1, user=root",
    "%n%s%d",
    "{}",
    "${HOME}",
    "\u00e4\u2028\u202e\u0085",
    "x" * 900,
    "INFO: LOGIN",
    "user=root",
    "\u00ff",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_name_cannot_forge_a_field(site, greeted, protocol, name):
    session = greeted(protocol)
    session.send((b"a1 AUTHENTICATE PLAIN " if protocol == "imap" else b"AUTH PLAIN ") + b64("", name, "x") + b"\r\n")
    parsed = LINE.fullmatch(session.log.find("LOGIN FAILED"))
    assert parsed
    assert parsed["event"] == "LOGIN FAILED"
    assert parsed["ip"] == "::ffff:127.0.0.1"
    assert parsed["user"]
    assert parsed["user"].isascii()
    assert len(parsed["user"]) < 1100


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"\xc0\xaf", b"u1\x00x", b"a\r\nINFO: LOGIN, user=root", b"\x1b[2J", b"a\nb", b"\x7f"]
)
def test_bytes_cannot_forge_a_line(site, greeted, raw):
    session = greeted()
    session.send(b"a1 AUTHENTICATE PLAIN " + b64("", raw, "x") + b"\r\na2 LOGOUT\r\n")
    session.rest()
    lines = session.log.rest().decode().splitlines(keepends=True)
    events = [parsed and parsed["event"] for parsed in map(LINE.fullmatch, lines)]
    assert events in (["Connection", "LOGIN FAILED", "LOGOUT"], ["Connection", "LOGOUT"])
    assert all(line.isascii() for line in lines)


def test_same_escapes_in_syslog(site, helper, syslog):
    session = helper(stderr_is_connection=True, mounts=syslog.mounts)
    session.send(b"a1 AUTHENTICATE PLAIN " + b64("", "x\\x, ip=[203.0.113.9]", "x") + b"\r\n")
    line = syslog.find("LOGIN FAILED")
    assert line.index("ip=[") == line.index("ip=[::ffff:127.0.0.1]")
    assert line.count("ip=[") == 1


def test_different_names_look_different(site, greeted):
    """An escape must not be one that a client can send itself."""
    session = greeted()
    seen = []
    for name in ("a,b", "a\\x2cb", "a\\,b"):
        session.send(b"a1 AUTHENTICATE PLAIN " + b64("", name, "x") + b"\r\n")
        parsed = LINE.fullmatch(session.log.find("FAILED"))
        seen.append(parsed and parsed["user"])
    assert len(set(seen)) == 3
    assert None not in seen


@pytest.mark.parametrize(
    "reply",
    [
        b"NO x, ip=[203.0.113.9]",
        b"NO [AUTHENTICATIONFAILED] \x1b[2J\x07 bell",
        b"NO \xff\xc3\xa4",
        b"NO " + b"x" * 20_000,
        b"NO \r\x0b x",
    ],
)
def test_backend_cannot_forge_either(site, greeted, backend, reply):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(reply))
    session.until(b"a1 ")
    line = session.log.find("LOGIN ", "u1")
    assert LINE.fullmatch(line)
    assert line.isascii()
    assert len(line) < 2500
    assert line.index("ip=[") == line.index("ip=[::ffff:127.0.0.1]")


@pytest.mark.parametrize(
    "greeting", [b"\x1b[2J, ip=[203.0.113.9]\nINFO: LOGIN, user=root\r\n", b"* BYE go, ip=[1.2.3.4] away\r\n"]
)
def test_backend_s_greeting_cannot_forge_either(site, greeted, backend, greeting):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    backend.greet(greeting)
    session.line()
    line = session.log.find("LOGIN DEFERRED")
    assert LINE.fullmatch(line)
    assert line.isascii()
    assert line.index("ip=[") == line.index("ip=[::ffff:127.0.0.1]")
    session.send(b"a2 LOGOUT\r\n")
    session.rest()
    assert "user=root" not in session.log.rest().decode().replace(line, "").split("\n")[0]


@pytest.mark.parametrize(
    "env",
    [
        {"REMOTE_HOST": "x], port=[1], ip=[203.0.113.9"},
        {"TCPREMOTEIP": "evil\nINFO: LOGIN"},
        {"REMOTE_ADDR": "a b,c", "REMOTE_PORT": "1], ip=[203.0.113.9"},
    ],
)
def test_activator_s_word_is_escaped_too(helper, env):
    """A host name may come from whoever runs the reverse zone."""
    session = helper(client="pipes", env=env)
    line = session.log.find("Connection")
    assert LINE.fullmatch(line)
    assert "203.0.113.9" not in line.split("ip=[")[1].split("]")[0]


def test_passwords_are_in_no_log(site, greeted, backend):
    """Neither in clear nor as they were sent. The right one is looked for behind each test, by the fixture."""
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(
        b"a1 LOGIN u1 wr0ng\r\na2 AUTHENTICATE PLAIN " + b64("", "u1", "wr0ng") + b"\r\n"
        b"a3 LOGIN u1 wr0ng more wr0ng\r\nwr0ng\r\na4 LOGIN wr0ng\r\na5 AUTHENTICATE PLAIN wr0ng\r\na6 LOGOUT\r\n"
    )
    session.rest()
    text = session.log.rest().decode()
    assert "LOGIN FAILED" in text
    for trace in ("wr0ng", b64("", "u1", "wr0ng").decode(), b64("wr0ng").decode()[:6]):
        assert trace not in text


def test_hash_is_in_no_log(site, greeted):
    site.account("u1", systempw="{SHA}not-base64-at-all!")
    session = greeted()
    session.send(b"a1 LOGIN u1 secret\r\na2 LOGOUT\r\n")
    session.rest()
    assert "not-base64" not in session.log.rest().decode()


SERVER = (
    "/bin/sh",
    "-c",
    'echo "INFO: LOGIN, user=$AUTHENTICATED" >&2; echo "from the local server"; exec cat',
    "sh",
    "Maildir",
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("client", CLIENTS)
def test_local_server_s_stderr_becomes_syslog(site, helper, syslog, home, protocol, client):
    """Where fd 2 was the connection, what Courier's imapd writes there must not reach the client."""
    site.account("u1", home=str(home))
    session = helper(protocol, *SERVER, client=client, stderr_is_connection=True, mounts=syslog.mounts)
    session.line()
    session.send(LOGIN[protocol])
    lines = session.until(b"from the local server")
    assert not [line for line in lines if b"user=u1" in line]
    said = syslog.find("LOGIN, user=u1")
    assert (" imapd" if protocol == "imap" else " pop3d") in said
    session.send(b"echo\r\n")
    assert session.line() == b"echo\r\n"
    session.close()
    session.exit_status()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", ["starttls", "wrapped"])
def test_local_server_s_stderr_becomes_syslog_behind_tls(certified, secured, syslog, home, protocol, way):
    certified.account("u1", home=str(home))
    _, tls = secured(protocol, *SERVER, way=way, stderr_is_connection=True, mounts=syslog.mounts)
    tls.send(LOGIN[protocol])
    assert tls.until(b"from the local server")
    assert {"imap": " imapd", "pop3": " pop3d"}[protocol] in syslog.find("LOGIN, user=u1")
    tls.send(b"echo\r\n")
    assert tls.line() == b"echo\r\n"


def test_local_server_s_stderr_stays_where_it_is_fit(site, greeted, home):
    site.account("u1", home=str(home))
    session = greeted("imap", *SERVER)
    session.send(LOGIN["imap"])
    assert session.log.find("INFO: LOGIN, user=u1\n")
