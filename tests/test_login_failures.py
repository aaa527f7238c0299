"""A login that does not succeed says why, gives nothing away, and is not the end of the connection."""

from __future__ import annotations

import re
import select
import time

import pytest
from scripted import GREETING, Backend, closed_port, read_login
from support import DEADLINE, Session, b64, hashed

PROTOCOLS = ("imap", "pop3")
WRONG = {"imap": b"a NO [AUTHENTICATIONFAILED] ", "pop3": b"-ERR [AUTH] "}
TEMPORARY = {"imap": b"a NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
DISABLED = {"imap": b"a NO [CONTACTADMIN] ", "pop3": b"-ERR [SYS/PERM] "}
INSECURE = {"imap": b"a NO [PRIVACYREQUIRED] ", "pop3": b"-ERR [SYS/PERM] "}
LOOP = {"imap": b"a NO [SERVERBUG] ", "pop3": b"-ERR [SYS/PERM] "}
EXPENSIVE = (
    "$6$rounds=200000$saltsalt$KIxokzdpd7LKAYpcFF2gzdBmn/H5QW5uzr"
    "QTMGe5wOOY04iJwz7bq6VsrGlmj40xZRvV///sdvBQWCaURFvL61"
)  # of "secret"


def quoted(value: bytes) -> bytes:
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def try_login(session: Session, protocol: str, user: bytes = b"u1", password: bytes = b"secret") -> bytes:
    """The reply that a login gets."""
    if protocol == "imap":
        session.send(b"a LOGIN %s %s\r\n" % (quoted(user), quoted(password)))
        return session.until(b"a ")[-1]
    session.send(b"USER " + user + b"\r\n")
    answer = session.line()
    if not answer.startswith(b"+OK"):
        return answer
    session.send(b"PASS " + password + b"\r\n")
    return session.line()


def try_sasl(session: Session, protocol: str, response: bytes) -> bytes:
    session.send((b"a AUTHENTICATE PLAIN " if protocol == "imap" else b"AUTH PLAIN ") + response + b"\r\n")
    return session.line()


def accepts(session: Session, protocol: str, backend: Backend, user: bytes = b"u1") -> None:
    """The dialogue has gone on, and a correct login succeeds."""
    session.send(b"a LOGIN %s secret\r\n" % user if protocol == "imap" else b"USER %s\r\nPASS secret\r\n" % user)
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (user, b"secret")
    wire.send(login.reply(b"OK welcome" if protocol == "imap" else b"+OK welcome"))
    assert session.until(b"a OK" if protocol == "imap" else b"+OK w")[-1].endswith(b"OK welcome\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_credentials(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    assert try_login(session, protocol, b"nobody").startswith(WRONG[protocol])
    assert "INFO: LOGIN FAILED, user=nobody, ip=[" in session.log.find("FAILED")
    assert try_login(session, protocol, password=b"Secret").startswith(WRONG[protocol])
    assert try_sasl(session, protocol, b64("", "u1", "wrong")).startswith(WRONG[protocol])
    accepts(session, protocol, backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reply_is_the_same_whatever_was_wrong(site, greeted, protocol):
    site.account("u1")
    session = greeted(protocol)
    assert try_login(session, protocol, b"nobody") == try_login(session, protocol, b"u1", b"wrong")


KINDS = ("unknown name", "wrong password", "wrong password, expensive hash", "disabled")
CREDENTIALS = {
    "unknown name": (b"nobody", b"secret"),
    "wrong password": (b"u1", b"wrong"),
    "wrong password, expensive hash": (b"expensive", b"wrong"),
    "disabled": (b"disabled", b"secret"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failures_take_the_same_time(site, greeted, protocol):
    """From the command to the reply, whatever lookup and hash cost. The best of three: a machine has other work too."""
    site.account("u1")
    site.account("expensive", systempw=EXPENSIVE)
    site.account("disabled", options="disableimap=1,disablepop3=1")
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    sessions = {kind: greeted(protocol, env={"LOGIN_FAIL_DELAY": "1"}) for kind in KINDS}
    for _ in range(3):
        sent: dict[str, float] = {}
        for kind, session in sessions.items():
            user, password = CREDENTIALS[kind]
            sent[kind] = time.monotonic()
            session.send(
                b"a LOGIN %s %s\r\n" % (user, password)
                if protocol == "imap"
                else b"USER %s\r\nPASS %s\r\n" % (user, password)
            )
            if protocol == "pop3":
                session.line()
        waiting = {session.reading: kind for kind, session in sessions.items()}
        while waiting:
            for reading in select.select(list(waiting), [], [], DEADLINE)[0]:
                kind = waiting.pop(reading)
                taken[kind].append(time.monotonic() - sent[kind])
                expected = DISABLED[protocol] if kind == "disabled" else WRONG[protocol]
                assert sessions[kind].line().startswith(expected)
    best = {kind: min(times) for kind, times in taken.items()}
    assert min(best.values()) >= 1
    assert max(best.values()) - min(best.values()) < 0.02, best


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_impossible_credentials_take_their_time_too(site, greeted, protocol):
    session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "1"})
    sent = time.monotonic()
    assert try_sasl(session, protocol, b64("", "u1", "")).startswith(WRONG[protocol])
    assert time.monotonic() - sent >= 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["plain", "no such host", "closed port", "drops"])
def test_unreachable_backend_is_no_wrong_password(site, greeted, backend, protocol, name):
    mailhost = {
        "plain": "127.0.0.1:1",
        "no such host": "no-such-host.invalid",
        "closed port": closed_port(),
        "drops": backend.mailhost,
    }[name]
    site.account("u1", mailhost=mailhost)
    site.account("u2", mailhost=backend.mailhost)
    session = greeted(protocol, env={"LOGIN_FAIL_DELAY": "5", "PROXY_TIMEOUT": "2"})
    sent = time.monotonic()
    session.send(b"a LOGIN u1 secret\r\n" if protocol == "imap" else b"USER u1\r\nPASS secret\r\n")
    if name == "drops":
        backend.accept().close()
    assert session.until((b"a ", b"-ERR")[protocol == "pop3"])[-1].startswith(TEMPORARY[protocol])
    assert time.monotonic() - sent < 4, "it is not a wrong password, and does not wait like one"
    line = session.log.find("LOGIN DEFERRED")
    assert "ERR: LOGIN DEFERRED, user=u1, ip=[" in line
    assert f"protocol={protocol.upper()}" in line
    assert mailhost.rpartition(":")[0] in line
    accepts(session, protocol, backend, b"u2")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("user", "password"),
    [
        (b"", b"secret"),
        (b"u1", b""),
        (b"u1\t", b"secret"),
        (b"u1", b"secret\t"),
        (b"u1", b"sec\x01ret"),
        (b"u1", b"secret\x7f"),
        (b"\x01u1", b"secret"),
        (b"u1\x1b[2J", b"secret"),
    ],
)
def test_what_may_be_no_login_is_a_failed_one(site, greeted, protocol, user, password):
    for name in ("u1", user.decode() or "empty"):
        site.account(name, password.decode() or "empty")
    session = greeted(protocol)
    assert try_sasl(session, protocol, b64("", user, password)).startswith(WRONG[protocol])
    assert "LOGIN FAILED" in session.log.find("LOGIN")


@pytest.mark.parametrize("control", [b"\0", b"\r", b"\n", b"\r\nx"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_sasl_cannot_smuggle_what_a_line_cannot_hold(site, greeted, backend, protocol, control):
    site.account("u1", "secret" + control.decode(), mailhost=backend.mailhost)
    session = greeted(protocol)
    reply = try_sasl(session, protocol, b64("", "u1", b"secret" + control))
    assert reply.startswith(WRONG[protocol]) or (control == b"\0" and reply.startswith((b"a BAD", b"-ERR")))
    assert backend.untouched()


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "*",
        "!",
        "x",
        "{SHA}",
        "{MD5RAW}",
        "{CRYPT}",
        "*0",
        "*1",
        "{NONSENSE}secret",
        "secret",
        "$6$",
        "$9$salt$hash",
        "{SHA}====",
        "{PLAIN}secret",
        "{CLEAR}secret",
    ],
)
def test_no_password_matches_what_is_no_hash(site, greeted, stored):
    site.account("u1", systempw=stored)
    session = greeted()
    for tried in filter(None, [b"secret", b"x", (stored or "").encode()]):
        assert try_login(session, "imap", password=tried).startswith(b"a NO ")
    assert try_sasl(session, "imap", b64("", "u1", "")).startswith(WRONG["imap"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_service_password_does_not_fall_back(site, greeted, protocol):
    """<service>pw comes before systempw, even where it forbids the login."""
    site.account("u1", imappw=hashed("other"), pop3pw=hashed("other"))
    assert try_login(greeted(protocol), protocol).startswith(WRONG[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", ["host\rQUIT", "host.example:143\rx"])
def test_control_byte_in_an_option_is_temporary(site, greeted, protocol, value):
    site.account("u1", mailhost=value)
    session = greeted(protocol)
    assert try_login(session, protocol).startswith(TEMPORARY[protocol])
    assert "\r" not in session.log.find("LOGIN DEFERRED")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("field", ["home", "mail", "options"])
@pytest.mark.parametrize("byte", ["\r", "\0"])
def test_control_byte_in_a_field_is_temporary(site, greeted, protocol, field, byte):
    site.account("u1", **{field: f"/home/{byte}x"})
    session = greeted(protocol, "/bin/false", "Maildir")
    assert try_login(session, protocol).startswith(TEMPORARY[protocol])
    session.log.find("LOGIN DEFERRED, user=u1")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("where", ["local", "proxied"])
@pytest.mark.parametrize("value", ["1", "t", "Yes", "2"])
def test_disabled_service(site, greeted, backend, protocol, where, value):
    mailhost = backend.mailhost if where == "proxied" else ""
    site.account("u1", mailhost=mailhost, options=f"disable{protocol}={value}")
    session = greeted(protocol, "/bin/false", "Maildir")
    assert try_login(session, protocol).startswith(DISABLED[protocol])
    assert "LOGIN REFUSED, user=u1, ip=[" in session.log.find("LOGIN")
    assert try_login(session, protocol, password=b"wrong").startswith(WRONG[protocol]), "only its owner learns that"
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "options",
    [
        "disableimap=0,disablepop3=0",
        "disableimap=no,disablepop3=n",
        "disableimap=,disablepop3=",
        "disablepop3={imap},disableimap={pop3}",
    ],
)
def test_service_that_is_not_disabled(site, greeted, backend, protocol, options):
    site.account(
        "u1",
        mailhost=backend.mailhost,
        options=options.format(imap=int(protocol == "imap"), pop3=int(protocol == "pop3")),
    )
    accepts(greeted(protocol), protocol, backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_account_that_wants_tls(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost, options=f"disableinsecure{protocol}=1")
    assert try_login(greeted(protocol), protocol).startswith(INSECURE[protocol])
    assert backend.untouched()
    accepts(greeted(protocol, env={f"{protocol.upper()}_TLS": "1"}), protocol, backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_default_options_and_the_account_s_own(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost)
    site.account("u2", mailhost=backend.mailhost, options=f"disable{protocol}=0")
    session = greeted(protocol, env={"DEFAULTOPTIONS": f"disable{protocol}=1,wbnodsn=1"})
    assert try_login(session, protocol).startswith(DISABLED[protocol])
    accepts(session, protocol, backend, b"u2")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o602, 0o660])
def test_userdb_that_others_may_read_is_refused(site, greeted, mode):
    site.account("u1")
    site.userdb.chmod(mode)
    session = greeted()
    assert try_login(session, "imap").startswith(TEMPORARY["imap"])
    assert re.search(
        r"userdb.*(permission|mode|group|world|others|readable|0600|chmod)", session.log.find("LOGIN DEFERRED")
    )
    site.userdb.chmod(0o600)
    assert try_login(session, "imap", b"nobody").startswith(WRONG["imap"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_userdb_directory_that_others_may_read_is_refused(site, greeted, protocol):
    site.account("u1")
    site.userdb.rename(site.directory / "users")
    site.userdb.mkdir(mode=0o700)
    (site.directory / "users").rename(site.userdb / "users")
    (site.userdb / "users").chmod(0o644)
    assert try_login(greeted(protocol), protocol).startswith(TEMPORARY[protocol])


@pytest.mark.parametrize(("protocol", "name"), [("imap", "imapd"), ("pop3", "pop3d")])
@pytest.mark.parametrize("trouble", ["unreadable", "shell", "number"])
def test_configuration_that_cannot_be_used_lets_nobody_in(site, helper, protocol, name, trouble):
    """A setting that is not understood might be the one that forbids this login."""
    site.account("u1")
    path = site.directory / name
    if trouble == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_text(
            {
                "shell": f"IMAP_TLS_REQUIRED=$(yes)\n{protocol.upper()}_PROXY=1\n",
                "number": f"{protocol.upper()}_PROXY=1\nPROXY_TIMEOUT=soon\n",
            }[trouble]
        )
    session = helper(protocol, "/bin/false", "Maildir")
    assert session.line().startswith(b"* BYE" if protocol == "imap" else b"-ERR [SYS/TEMP]")
    assert session.ended()
    session.close()
    text = session.log.rest().decode()
    assert (name if trouble != "number" else "PROXY_TIMEOUT") in text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unreadable_userdb_is_temporary(site, greeted, protocol):
    site.userdb.unlink()
    site.userdb.symlink_to("userdb")
    session = greeted(protocol)
    assert try_login(session, protocol).startswith(TEMPORARY[protocol])
    assert "userdb" in session.log.find("LOGIN DEFERRED")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_missing_userdb_is_no_wrong_password(site, greeted, protocol):
    site.userdb.unlink()
    assert try_login(greeted(protocol), protocol).startswith(TEMPORARY[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failed_logins_do_not_end_the_dialogue(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost)
    session = greeted(protocol)
    for _ in range(3):
        assert try_login(session, protocol, password=b"wrong").startswith(WRONG[protocol])
    accepts(session, protocol, backend)


def test_storm_of_logins_has_an_end(site, greeted):
    """An outage is told at once, so a client could ask again thousands of times a second."""
    site.userdb.unlink(missing_ok=True)
    session = greeted()
    session.send(b"a LOGIN u1 secret\r\n" * 10)
    replies = session.rest().splitlines()
    assert [reply[:18] for reply in replies[:-1]] == [b"a NO [UNAVAILABLE]"] * 10
    assert replies[-1].startswith(b"* BYE ")
    assert session.exit_status() == 0
