"""CRAM-MD5 and its kin on a connection: challenges, the refusal of a userdb, the way to a backend, and the line about
account modules that are not here."""

from __future__ import annotations

import base64
import hmac
import re
import sys
import time

import pytest
from scripted import GREETING, Backend, read_login
from support import PLACES, Session, b64

PROTOCOLS = ("imap", "pop3")
MECHANISMS = ("CRAM-MD5", "CRAM-SHA1", "CRAM-SHA256")
HASHES = {"CRAM-MD5": "md5", "CRAM-SHA1": "sha1", "CRAM-SHA256": "sha256"}
WRONG = {"imap": b"a NO [AUTHENTICATIONFAILED] ", "pop3": b"-ERR [AUTH] "}
TEMPORARY = {"imap": b"a NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
CHALLENGE = re.compile(rb"<([0-9a-f]{32})@([^<>\s@]+)>")
MODULES_MISSING = "account modules not available here"


@pytest.fixture
def offering(site):
    capability = " ".join(f"AUTH={name}" for name in MECHANISMS)
    site.set(IMAP_CAPABILITY=f"IMAP4rev1 {capability}", POP3AUTH=" ".join(MECHANISMS))
    return site


def ask(session: Session, protocol: str, mechanism: str = "CRAM-MD5") -> bytes:
    """Begin an exchange; the challenge."""
    session.send(f"a AUTHENTICATE {mechanism}\r\n".encode() if protocol == "imap" else f"AUTH {mechanism}\r\n".encode())
    line = session.line()
    assert line.startswith(b"+ "), line
    return base64.b64decode(line[2:], validate=False)


def log_in(
    session: Session, protocol: str, user: str = "u1", secret: str = "secret", mechanism: str = "CRAM-MD5"
) -> None:
    challenge = ask(session, protocol, mechanism)
    digest = hmac.new(secret.encode(), challenge, HASHES[mechanism]).hexdigest()
    session.send(b64(f"{user} {digest}") + b"\r\n")


def accepts_password(session: Session, protocol: str, backend: Backend) -> None:
    """PLAIN succeeds."""
    command = b"a AUTHENTICATE PLAIN " if protocol == "imap" else b"AUTH PLAIN "
    session.send(command + b64("", "u1", "secret") + b"\r\n")
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (b"u1", b"secret")
    wire.send(login.reply(b"OK welcome" if protocol == "imap" else b"+OK welcome"))
    assert session.until(b"a OK" if protocol == "imap" else b"+OK w")[-1].endswith(b"OK welcome\r\n")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_userdb_refuses_it_and_the_log_says_why(offering, greeted, backend, protocol, mechanism):
    offering.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    log_in(session, protocol, mechanism=mechanism)
    assert session.line().startswith(WRONG[protocol])
    line = session.log.find("FAILED")
    assert line.startswith("INFO: LOGIN FAILED, user=u1, ip=[")
    assert line.endswith(f": {mechanism} needs a cleartext password, and the account's source has none\n")
    accepts_password(session, protocol, backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reply_is_that_of_a_wrong_password(offering, greeted, protocol):
    """Whether the account is there, and what its source has, stays between us and the log."""
    offering.account("u1")
    session = greeted(protocol)
    replies = set()
    for user, reason in {
        "u1": "CRAM-MD5 needs a cleartext password",
        "nobody": "no such account",
        "": "not a name",
        "u\x011": "not a name",
        "u1\r\nb NOOP": "not a name",
    }.items():
        log_in(session, protocol, user)
        replies.add(session.line())
        session.log.find("LOGIN FAILED", f": {reason}")
    session.send(b'a LOGIN u1 "wrong"\r\n' if protocol == "imap" else b"USER u1\r\nPASS wrong\r\n")
    replies.add(session.until(b"a NO" if protocol == "imap" else b"-ERR")[-1])
    assert len(replies) == 1
    assert replies.pop().startswith(WRONG[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_delay_is_that_of_a_wrong_password(offering, greeted, protocol):
    offering.account("u1")
    session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "1"})
    for user in ("u1", "nobody"):
        before = time.monotonic()
        log_in(session, protocol, user)
        assert session.line().startswith(WRONG[protocol])
        assert 1 <= time.monotonic() - before < 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_challenge_comes_twice(offering, greeted, protocol):
    """Within a session, and in sessions of the same moment."""
    seen = []
    for session in [greeted(protocol) for _ in range(3)]:
        for _ in range(3):
            challenge = CHALLENGE.fullmatch(ask(session, protocol))
            assert challenge
            seen.append(challenge[1])
            session.send(b"*\r\n")
            assert session.line().startswith(b"a BAD " if protocol == "imap" else b"-ERR ")
    assert len(set(seen)) == 9
    assert len({seen[0][:8], seen[3][:8], seen[6][:8]}) == 3  # nor do they begin alike


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_old_response_is_worth_nothing(offering, stubbed, greeted, backend, protocol):
    """Neither in the same session nor in another."""
    session = greeted(protocol, wrapped=stubbed("cleartext=b'secret'", backend))
    challenge = ask(session, protocol)
    old = b64("u1 " + hmac.new(b"secret", challenge, "md5").hexdigest()) + b"\r\n"
    session.send(b"*\r\n")
    session.line()
    for again in (session, greeted(protocol, wrapped=stubbed("cleartext=b'secret'", backend))):
        assert ask(again, protocol) != challenge
        again.send(old)
        assert again.line().startswith(WRONG[protocol])
        again.log.find("LOGIN FAILED, user=u1", ": wrong response to CRAM-MD5")
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mechanism_that_is_not_listed(site, greeted, protocol):
    listed = "IMAP4rev1 AUTH=CRAM-SHA1 CRAM-MD5 AUTH=CRAM-MD AUTH=CRAM-SHA256-PLUS"
    site.set(IMAP_CAPABILITY=listed, POP3AUTH="CRAM-SHA1 AUTH=CRAM-MD5 CRAM-MD CRAM-SHA256-PLUS")
    session = greeted(protocol)
    for mechanism in (b"CRAM-MD5", b"CRAM-SHA256"):
        session.send(b"a AUTHENTICATE %b\r\n" % mechanism if protocol == "imap" else b"AUTH %b\r\n" % mechanism)
        assert session.line().startswith(b"a NO " if protocol == "imap" else b"-ERR ")
    ask(session, protocol, "CRAM-SHA1")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("tls", "offered"), [("0", "CRAM-MD5"), ("1", "CRAM-SHA256")])
def test_other_mechanisms_with_tls(site, helper, protocol, tls, offered):
    site.set(IMAP_CAPABILITY="IMAP4rev1 auth=cram-md5", IMAP_CAPABILITY_TLS="$IMAP_CAPABILITY AUTH=CRAM-SHA256 x")
    site.set(POP3AUTH="Cram-Md5", POP3AUTH_TLS="CRAM-SHA256")
    if tls == "1":
        site.set(IMAP_CAPABILITY_TLS="IMAP4rev1 AUTH=CRAM-SHA256")
    session = helper(protocol, env={f"{protocol.upper()}_TLS": tls})
    greeting = session.line()
    if protocol == "imap":
        shown = {word.decode() for word in re.findall(rb"AUTH=([^ \]]+)", greeting)}
    else:
        session.send(b"CAPA\r\n")
        sasl = next(line for line in session.until(b".\r\n") if line.startswith(b"SASL "))
        shown = {word.decode() for word in sasl.split()[1:]}
    assert shown == {"PLAIN", "LOGIN", offered}
    ask(session, protocol, offered)


STUB = """
import sys, runpy; sys.path.insert(0, {place!r})
from types import ModuleType
source = ModuleType("proxyhelper.accounts.mysql")

def find(settings, service, name):
    from proxyhelper.accounts.account import Account
    return Account(name, b"", options={{"mailhost": {mailhost!r}}}, {fields})

def authenticate(settings, service, name, proof):
    return find(settings, service, name)

source.{function} = {function}
sys.modules[source.__name__] = source
sys.argv[:] = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def stubbed(offering):
    """The helper with a source that has cleartext in place of authmysql: its accounts, in front of a command."""
    offering.set(PROXY_AUTHMODULES="authmysql")
    place = next(place for place in PLACES if (place / "proxyhelper").is_dir())

    def make(fields: str, backend: Backend, function: str = "find") -> list[str]:
        code = STUB.format(place=str(place), mailhost=backend.mailhost, fields=fields, function=function)
        return [sys.executable, "-I", "-S", "-c", code]

    return make


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_is_told_the_password(stubbed, greeted, backend, protocol, mechanism):
    """The one that the source has, as the client sent none."""
    session = greeted(protocol, wrapped=stubbed("cleartext=b'secret'", backend))
    log_in(session, protocol, "u1 of one", mechanism=mechanism)
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (b"u1 of one", b"secret")
    wire.send(login.reply(b"OK welcome" if protocol == "imap" else b"+OK welcome"))
    assert session.line() == (b"a OK welcome\r\n" if protocol == "imap" else b"+OK welcome\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_response_then_the_right_one(stubbed, greeted, backend, protocol):
    session = greeted(protocol, wrapped=stubbed("cleartext=b'secret'", backend))
    log_in(session, protocol, secret="wrong")
    assert session.line().startswith(WRONG[protocol])
    session.log.find("LOGIN FAILED, user=u1, ", ": wrong response to CRAM-MD5")
    log_in(session, protocol)
    wire = backend.greet(GREETING[protocol])
    assert read_login(protocol, wire).password == b"secret"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusal_that_repeats_the_password_is_not_logged(stubbed, greeted, backend, protocol):
    session = greeted(protocol, wrapped=stubbed("cleartext=b'secret'", backend))
    log_in(session, protocol)
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    wire.send(login.reply(b"NO not secret" if protocol == "imap" else b"-ERR not secret"))
    assert b"not" in session.line()
    session.log.find("LOGIN REFUSED")  # `helper` looks for the password


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_right_response_without_a_password_for_the_backend(stubbed, greeted, backend, protocol):
    """A source that checks the response itself, and does not tell the password."""
    session = greeted(protocol, wrapped=stubbed("", backend, "authenticate"))
    log_in(session, protocol)
    assert session.line().startswith(TEMPORARY[protocol])
    session.log.find("LOGIN DEFERRED, user=u1", "needs the password in clear")
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_modules_that_are_not_here_are_named_once(site, greeted, backend, protocol):
    site.set(PROXY_AUTHMODULES="authpam authuserdb authcustom authpam")
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    for _ in range(3):
        session.send(b"a LOGIN u1 wrong\r\n" if protocol == "imap" else b"USER u1\r\nPASS wrong\r\n")
        session.until(WRONG[protocol])
    accepts_password(session, protocol, backend)
    session.log.find("LOGIN, user=u1")
    (line,) = [line for line in session.log.text.splitlines() if MODULES_MISSING in line]
    assert re.fullmatch(rf"WARN: {MODULES_MISSING}, ip=\[.*\], port=\[\d+\], session=\w+: authpam authcustom", line)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_said_of_modules_that_are_here(site, greeted, backend, protocol):
    site.set(PROXY_AUTHMODULES="authuserdb authldap")
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    accepts_password(session, protocol, backend)
    session.log.find("LOGIN, user=u1")
    assert MODULES_MISSING not in session.log.text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_module_that_is_here(site, greeted, protocol):
    """What Debian installs: authpam alone."""
    site.account("u1")
    (site.directory / "authdaemonrc").write_text('authmodulelist="authpam"\n')
    session = greeted(protocol)
    session.send(b"a LOGIN u1 secret\r\n" if protocol == "imap" else b"USER u1\r\nPASS secret\r\n")
    session.until(TEMPORARY[protocol])
    session.log.find(MODULES_MISSING, "authpam")
    session.log.find("LOGIN DEFERRED, user=u1", "authpam")
