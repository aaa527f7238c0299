"""TLS towards the client: when it is offered, what is said before and behind it, and what happens where it fails."""

from __future__ import annotations

import os
import re
import signal
import ssl
from pathlib import Path

import pytest
from real.certificates import Certificate
from scripted import BEGIN_TLS, GREETING, LOGIN, STARTTLS, log_in, read_login, start_tls
from support import CAPABILITY, FRONT, Session, Tls, Wire, hashed, patched, wait_until
from test_local import LOGGED_IN, SERVER, Local

PROTOCOLS = ("imap", "pop3")
WAYS = ("starttls", "wrapped")
READY = {"imap": b"* OK [CAPABILITY %b] IMAP server ready.\r\n", "pop3": b"+OK proxyhelper POP3 server ready.\r\n"}
CONFIGURED = CAPABILITY.removesuffix(" AUTH=PLAIN").encode()
IN_CLEAR = {
    "offered": CONFIGURED + b" SASL-IR ID STARTTLS AUTH=PLAIN AUTH=LOGIN",
    "not offered": CONFIGURED + b" SASL-IR ID AUTH=PLAIN AUTH=LOGIN",
    "required": CONFIGURED + b" ID STARTTLS LOGINDISABLED",
}
ABILITIES = [
    b"TOP",
    b"LOGIN-DELAY 10",
    b"PIPELINING",
    b"UIDL",
    b"UTF8 USER",
    b"LANG",
    b"RESP-CODES",
    b"AUTH-RESP-CODE",
    b"IMPLEMENTATION proxyhelper",
]
CAPA = {
    "offered": [b"SASL PLAIN LOGIN", b"USER", b"STLS", *ABILITIES],
    "not offered": [b"SASL PLAIN LOGIN", b"USER", *ABILITIES],
    "required": [b"STLS", *ABILITIES],
}
UNKNOWN = {"imap": b"t BAD ", "pop3": b"-ERR "}
NO_TLS = {
    "imap": b"t NO [UNAVAILABLE] TLS is temporarily unavailable. Try again later.\r\n",
    "pop3": b"-ERR [SYS/TEMP] TLS is temporarily unavailable. Try again later.\r\n",
}
INSECURE = {
    "imap": b"a1 NO [PRIVACYREQUIRED] Login is allowed over an encrypted connection only.\r\n",
    "pop3": b"-ERR [SYS/PERM] Login is allowed over an encrypted connection only.\r\n",
}
TEMPORARY = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}
FLAG = {"imap": "starttls=1", "pop3": "stls=1"}


def says_what_it_offers(wire: Wire, protocol: str, what: str, greeting: bytes = b"") -> None:
    """In the greeting, where there is one, and when asked."""
    if protocol == "pop3":
        assert greeting in (b"", READY["pop3"])
        wire.send(b"CAPA\r\n")
        assert wire.until(b".") == [b"+OK Capability list follows.\r\n", *(a + b"\r\n" for a in CAPA[what]), b".\r\n"]
        return
    assert greeting in (b"", READY["imap"] % IN_CLEAR[what])
    wire.send(b"c CAPABILITY\r\n")
    expected = [b"* CAPABILITY " + IN_CLEAR[what] + b"\r\n", b"c OK CAPABILITY completed.\r\n"]
    assert wire.until(b"c ") == expected


def is_served_in_clear(session: Session, protocol: str) -> None:
    """The dialogue goes on."""
    session.send(b"n NOOP\r\n" if protocol == "imap" else b"UTF8\r\n")
    assert session.line() == (b"n OK NOOP completed.\r\n" if protocol == "imap" else b"+OK UTF-8 from now on.\r\n")


def ends_without_a_word(session: Session) -> None:
    """Behind the answers that are expected; a reset is an end, too: of bytes that were thrown away."""
    assert session.ended()


# When it is offered


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("in_file", "in_environment", "offered"),
    [
        ("YES", None, True),
        ("y", None, True),
        ("Yes, please", None, True),
        ("NO", None, False),
        ("", None, False),
        ("1", None, False),
        ("true", None, False),
        ("YES", "NO", False),
        ("YES", "", False),
        ("NO", "YES", True),
        ("", "y", True),
    ],
)
def test_offered_where_the_setting_begins_with_y(certified, helper, protocol, in_file, in_environment, offered):
    certified.set(IMAPDSTARTTLS=in_file, POP3_STARTTLS=in_file)
    env = {} if in_environment is None else {f"{protocol.upper()}_STARTTLS": in_environment}
    session = helper(protocol, env=env)
    says_what_it_offers(session, protocol, "offered" if offered else "not offered", session.line())
    session.send(STARTTLS[protocol])
    assert session.line().startswith(BEGIN_TLS[protocol] if offered else UNKNOWN[protocol])
    if not offered:
        is_served_in_clear(session, protocol)


def test_in_files_it_is_imapdstarttls(certified, helper):
    """Courier's start script makes IMAP_STARTTLS of it."""
    certified.set(IMAPDSTARTTLS="NO", IMAP_STARTTLS="YES")
    session = helper()
    says_what_it_offers(session, "imap", "not offered", session.line())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_offered_unless_set(certified, helper, protocol):
    for name in ("IMAPDSTARTTLS", "POP3_STARTTLS"):
        del certified.settings[name]
    certified.set()
    session = helper(protocol)
    says_what_it_offers(session, protocol, "not offered", session.line())


@pytest.mark.parametrize("main", ["YES", "NO", None])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ssl_file_first_then_the_main_one(certified, helper, protocol, main):
    name = {"imap": "IMAPDSTARTTLS", "pop3": "POP3_STARTTLS"}[protocol]
    (certified.directory / f"{protocol}d-ssl").write_text(f"{name}={'NO' if main == 'YES' else 'YES'}\n")
    if main:
        certified.set(**{name: main})
    else:
        del certified.settings[name]
        certified.set()
    session = helper(protocol)
    says_what_it_offers(session, protocol, "not offered" if main == "NO" else "offered", session.line())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("certificate", "key", "offered"),
    [
        ("both", None, True),
        ("both", "", True),
        ("certificate", "key", True),
        ("certificate", "missing", False),
        ("missing", "key", False),
        ("missing", None, False),
        ("", None, False),
    ],
)
def test_offered_where_the_certificate_can_be_read(
    certified, helper, authority, front, protocol, certificate, key, offered
):
    files = {"both": front.both, "certificate": front.certificate, "key": front.key, "missing": "/none.pem", "": ""}
    certified.set(TLS_CERTFILE=files[certificate], **({} if key is None else {"TLS_PRIVATE_KEYFILE": files[key]}))
    session = helper(protocol)
    says_what_it_offers(session, protocol, "offered" if offered else "not offered", session.line())
    if offered:
        start_tls(session, protocol)
        Tls(session, authority.trusting(), FRONT)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_offered_where_the_certificate_is_somebody_else_s(certified, helper, front, tmp_path, protocol):
    """To a root that may not read everything."""
    file = tmp_path / "front.pem"
    file.write_text(front.both.read_text())
    file.chmod(0o600)
    os.chown(file, 1000, 1000)
    certified.set(TLS_CERTFILE=file)
    session = helper(protocol, wrapped=("setpriv", "--bounding-set=-all"))
    says_what_it_offers(session, protocol, "not offered", session.line())


# Before and behind TLS


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_offered_twice(secured, protocol, way):
    _, tls = secured(protocol, way=way)
    says_what_it_offers(tls, protocol, "not offered")
    tls.send(STARTTLS[protocol])
    assert tls.line().startswith(UNKNOWN[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_offered_behind_somebody_else_s(certified, helper, protocol):
    """couriertls or stunnel in front."""
    session = helper(protocol, env={f"{protocol.upper()}_TLS": "1"})
    says_what_it_offers(session, protocol, "not offered", session.line())
    session.send(STARTTLS[protocol])
    assert session.line().startswith(UNKNOWN[protocol])


@pytest.mark.parametrize("name", ["IMAP_TLS", "POP3_TLS", "PROXY_TLS_WRAP"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_facts_of_a_connection_are_not_believed_of_a_file(certified, helper, protocol, name):
    certified.set(**{name: 1})
    session = helper(protocol)
    says_what_it_offers(session, protocol, "offered", session.line())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_greeting_behind_tls_from_the_first_byte(certified, helper, authority, protocol):
    session = helper(protocol, env={"PROXY_TLS_WRAP": "1"})
    assert session.silent(0.2)
    tls = Tls(session, authority.trusting(), FRONT)
    says_what_it_offers(tls, protocol, "not offered", tls.line())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_greeting_after_starttls(secured, protocol):
    _, tls = secured(protocol)
    assert tls.silent(0.1)


LOGINS = {
    "imap": [LOGIN["imap"], b"a1 AUTHENTICATE PLAIN AHUxAHNlY3JldA==\r\n", b"a1 AUTHENTICATE LOGIN\r\n"],
    "pop3": [b"USER u1\r\n", b"AUTH PLAIN AHUxAHNlY3JldA==\r\n", b"AUTH LOGIN\r\n"],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_required(certified, helper, backend, authority, protocol):
    """Every login in clear is refused, and said to be; behind TLS none is."""
    certified.set(IMAP_TLS_REQUIRED=1, POP3_TLS_REQUIRED=1)
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    says_what_it_offers(session, protocol, "required", session.line())
    port = session.socket.getsockname()[1]
    for login in LOGINS[protocol]:
        session.send(login)
        assert session.line() == INSECURE[protocol]
        assert re.fullmatch(
            rf"INFO: LOGIN REFUSED, ip=\[::ffff:127\.0\.0\.1\], port=\[{port}\], session=[0-9a-f]{{16}}, "
            rf"protocol={protocol.upper()}: TLS is required\n",
            session.log.find("REFUSED"),
        )
    start_tls(session, protocol)
    tls = Tls(session, authority.trusting(), FRONT)
    says_what_it_offers(tls, protocol, "not offered")
    log_in(protocol, tls, backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_required_where_there_is_none(site, helper, protocol):
    """It stays honest, and the log tells the administrator."""
    site.set(IMAP_TLS_REQUIRED=1, POP3_TLS_REQUIRED=1)
    session = helper(protocol)
    assert session.line() == READY[protocol] % ((CONFIGURED + b" ID LOGINDISABLED",) if protocol == "imap" else ())
    session.send(LOGINS[protocol][0])
    assert session.line() == INSECURE[protocol]
    session.log.find("INFO: LOGIN REFUSED, ip=[", ": TLS is required, but cannot be had here")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_not_required_unless_set(certified, helper, backend, protocol):
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, env={f"{protocol.upper()}_TLS_REQUIRED": "0"})
    session.line()
    log_in(protocol, session, backend)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mechanisms_and_capabilities_behind_tls(certified, secured, protocol, way):
    certified.set(
        IMAP_CAPABILITY="IMAP4rev1 AUTH=CRAM-MD5",
        IMAP_CAPABILITY_TLS="$IMAP_CAPABILITY X-TLS AUTH=CRAM-SHA256",
        POP3AUTH="CRAM-MD5",
        POP3AUTH_TLS="CRAM-SHA256",
    )
    _, tls = secured(protocol, way=way)
    tls.send(b"c CAPABILITY\r\n" if protocol == "imap" else b"CAPA\r\n")
    if protocol == "imap":
        expected = b"IMAP4rev1 X-TLS SASL-IR ID AUTH=PLAIN AUTH=LOGIN AUTH=CRAM-MD5 AUTH=CRAM-SHA256"
        assert tls.line() == b"* CAPABILITY " + expected + b"\r\n"
    else:
        tls.line()
        assert tls.line() == b"SASL PLAIN LOGIN CRAM-SHA256\r\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_said_in_clear_is_forgotten(certified, helper, authority, protocol):
    """The name that somebody in between gave is not the one that the client's password goes with."""
    session = helper(protocol)
    session.line()
    session.send(b"USER mallory\r\nUTF8\r\n" if protocol == "pop3" else b"x AUTHENTICATE PLAIN\r\n*\r\n")
    session.line()
    session.line()
    start_tls(session, protocol)
    tls = Tls(session, authority.trusting(), FRONT)
    tls.send(b"PASS secret\r\n" if protocol == "pop3" else b"a NOOP\r\n")
    assert tls.line().startswith(b"-ERR USER comes first." if protocol == "pop3" else b"a OK")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_option_that_forbids_logins_in_clear(certified, helper, backend, authority, protocol):
    certified.account("u1", mailhost=backend.mailhost, options=f"disableinsecure{protocol}=1")
    session = helper(protocol)
    session.line()
    session.send(LOGIN[protocol])
    session.until(INSECURE[protocol])
    session.log.find("LOGIN REFUSED, user=u1", "disableinsecure")
    start_tls(session, protocol)
    log_in(protocol, Tls(session, authority.trusting(), FRONT), backend)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_option_that_forbids_logins_in_clear_behind_somebody_else_s(site, greeted, backend, protocol):
    site.account("u1", mailhost=backend.mailhost, options=f"disableinsecure{protocol}=1")
    log_in(protocol, greeted(protocol, env={f"{protocol.upper()}_TLS": "1"}), backend)


# Versions


def at_most(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.maximum_version = version
    return context


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("way", "in_file", "env", "newest_only"),
    [
        ("starttls", {}, {}, False),
        ("wrapped", {}, {}, False),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "TLSv1.3"}, {}, True),
        ("wrapped", {"TLS_STARTTLS_PROTOCOL": "TLSv1.3"}, {}, False),
        ("starttls", {"TLS_PROTOCOL": "TLSv1.3"}, {}, True),
        ("wrapped", {"TLS_PROTOCOL": "TLSv1.3"}, {}, True),
        ("starttls", {"TLS_PROTOCOL": "TLSv1.3", "TLS_STARTTLS_PROTOCOL": "TLSv1.2"}, {}, False),
        ("wrapped", {"TLS_PROTOCOL": "TLSv1.3", "TLS_STARTTLS_PROTOCOL": "TLSv1.2"}, {}, True),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "TLSv1.2"}, {"TLS_PROTOCOL": "TLSv1.3"}, True),
        ("wrapped", {"TLS_PROTOCOL": "TLSv1.2"}, {"TLS_PROTOCOL": "TLSv1.3+"}, True),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "TLSv1.3"}, {"TLS_PROTOCOL": "TLSv1.2++"}, False),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "TLSv1.3++"}, {}, True),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "tlsv1.1"}, {}, False),
        ("starttls", {"TLS_STARTTLS_PROTOCOL": "TLSv1"}, {}, False),
    ],
)
def test_versions(certified, secured, authority, protocol, way, in_file, env, newest_only):
    certified.set(**in_file)
    older = at_most(authority.trusting(), ssl.TLSVersion.TLSv1_2)
    if newest_only:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            secured(protocol, way=way, env=env, context=older)
    else:
        assert secured(protocol, way=way, env=env, context=older)[1].tls.version() == "TLSv1.2"


def test_newest_by_itself(secured):
    session, tls = secured()
    assert tls.tls.version() == "TLSv1.3"
    line = session.log.find("DEBUG: TLS")
    assert line.endswith(", protocol=IMAP, starttls=1, tls=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384\n")


def test_ciphers(certified, secured, authority):
    certified.set(TLS_CIPHER_LIST="ECDHE-ECDSA-AES128-GCM-SHA256", TLS_STARTTLS_PROTOCOL="TLSv1.2")
    session, _ = secured(context=at_most(authority.trusting(), ssl.TLSVersion.TLSv1_2))
    session.log.find("tls=TLSv1.2, cipher=ECDHE-ECDSA-AES128-GCM-SHA256")


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("way", WAYS)
def test_no_tickets(secured, authority, way, newest):
    """The next process could not open them."""
    session, tls = secured(way=way, context=at_most(authority.trusting(), newest))
    tls.send(b"a NOOP\r\n")
    tls.line()
    assert session.silent(0.05)
    assert not tls.tls.session.has_ticket


# Where it fails


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "injected", [b"x", b"\r\n", b"i NOOP\r\n", LOGIN["imap"], LOGIN["pop3"], b"\x16\x03\x01\x02\x00\x01"]
)
def test_bytes_in_clear_behind_starttls(certified, helper, backend, protocol, injected):
    """They are thrown away with the connection, and no TLS begins, which would hide whose they were."""
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.line()
    session.send(STARTTLS[protocol] + injected)
    ends_without_a_word(session)
    assert "in clear behind" in session.log.find("WARN: DISCONNECTED")
    assert session.exit_status() == 0
    assert session.log.rest() == b""
    assert backend.untouched()


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_in_clear_are_not_carried_out_later_either(certified, helper, authority, backend, protocol, client):
    """As above, and a client that goes on as if nothing were wrong."""
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, client=client)
    session.line()
    session.send(STARTTLS[protocol] + LOGIN[protocol])
    with pytest.raises((EOFError, OSError)):  # noqa: PT012  the end may come with any of these
        if session.line() == BEGIN_TLS[protocol]:
            Tls(session, authority.trusting(), FRONT)
    assert session.exit_status() == 0
    assert backend.untouched()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_tls_is_spoken(certified, helper, backend, protocol, way):
    """What comes in its place is nothing but a failed handshake; at most an alert is said."""
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))})
    if way == "starttls":
        session.line()
        start_tls(session, protocol)
    session.send(LOGIN[protocol])
    said = b""
    try:
        said = session.rest()
    except ConnectionResetError:
        said = bytes(session.received)
    assert said == b"" or said[:1] == b"\x15"
    session.log.find("INFO: DISCONNECTED, ip=[", ": TLS handshake failed: ")
    assert session.exit_status() == 0
    assert backend.untouched()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_that_leaves_in_the_handshake(certified, helper, protocol, way):
    session = helper(protocol, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))})
    if way == "starttls":
        session.line()
        start_tls(session, protocol)
    session.send(b"\x16\x03\x01")
    session.half_close()
    assert session.ended()
    session.log.find("INFO: DISCONNECTED, ip=[", ": TLS handshake failed: the connection ended")
    assert session.exit_status() == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_said_in_clear_to_a_client_that_is_slow(certified, helper, protocol, way):
    """It has been told that TLS begins."""
    within = patched("proxyhelper.reception", LOGIN_SECONDS=0.5)
    session = helper(protocol, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))}, wrapped=within)
    if way == "starttls":
        session.line()
        start_tls(session, protocol)
    assert session.rest() == b""
    assert re.search("^INFO: (TIMEOUT|DISCONNECTED), ", session.log.rest().decode(), re.MULTILINE)
    assert session.exit_status() == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_login_deadline_behind_tls(secured, protocol, way):
    """Its goodbye is said behind TLS, and ends it in order."""
    session, tls = secured(protocol, way=way, wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=1.0))
    assert tls.rest() == (b"* BYE Login timed out.\r\n" if protocol == "imap" else b"")
    assert session.ended()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_goodbye(secured, protocol, way):
    session, tls = secured(protocol, way=way)
    tls.send(b"a LOGOUT\r\n" if protocol == "imap" else b"QUIT\r\n")
    expected = b"* BYE Logging out.\r\na OK LOGOUT completed.\r\n" if protocol == "imap" else b"+OK Goodbye.\r\n"
    assert tls.rest() == expected
    assert session.ended()
    assert session.exit_status() == 0


UNUSABLE = ("garbage", "empty", "of another key", "encrypted key", "no version", "no ciphers", "no authorities")


@pytest.fixture
def unusable(certified, authority, front, tmp_path) -> object:
    """Make a setting one that TLS cannot begin with; returns what the log says of it."""

    def spoil(what: str) -> str:
        file = tmp_path / "spoilt.pem"
        if what in ("garbage", "empty"):
            file.write_text(what if what == "garbage" else "")
            certified.set(TLS_CERTFILE=file)
            return f"the certificate in {file} cannot be used: "
        if what == "of another key":
            other = authority.directory / "other.key"
            if not other.exists():
                authority.issue("other", "DNS:other.example")
            certified.set(TLS_CERTFILE=front.certificate, TLS_PRIVATE_KEYFILE=other)
            return f"the certificate in {front.certificate} and the key in {other} cannot be used: "
        if what == "encrypted key":
            file.write_text(front.certificate.read_text() + ENCRYPTED_KEY)
            certified.set(TLS_CERTFILE=file)
            return f"the certificate in {file} cannot be used: "
        setting, value = {
            "no version": ("TLS_PROTOCOL", "SSLv3"),
            "no ciphers": ("TLS_CIPHER_LIST", "nonsense"),
            "no authorities": ("TLS_TRUSTCERTS", "/none.pem"),
        }[what]
        certified.set(TLS_VERIFYPEER="PEER" if what == "no authorities" else "NONE", **{setting: value})
        return f"setting {setting}='{value}' "

    return spoil


ENCRYPTED_KEY = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjk3HrGUoCJHgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEMQ0FwGU6cKgkdLzC7F8gakEgZBC
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unusable_at_starttls(certified, helper, backend, unusable, protocol, what):
    """It is said to be temporary; the session goes on, as often as it is tried."""
    said = unusable(what)
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    session.line()
    for _ in range(2):
        session.send(STARTTLS[protocol])
        assert session.line() == NO_TLS[protocol]
        assert said in session.log.find("ERR: CONFIGURATION, ip=[")
    says_what_it_offers(session, protocol, "offered")
    log_in(protocol, session, backend)


@pytest.mark.parametrize("what", [*UNUSABLE, "none"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unusable_from_the_first_byte(certified, helper, unusable, protocol, what):
    """Nothing can be said in clear to a client that waits for TLS."""
    if what == "none":
        certified.set(TLS_CERTFILE="")
    else:
        said = unusable(what)
    session = helper(protocol, env={"PROXY_TLS_WRAP": "1"})
    assert session.ended()
    line = session.log.find("ERR: CONFIGURATION, ip=[")
    assert what == "none" or said in line
    assert session.exit_status() == 70


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["PROXY_TIMEOUT", "TLS_VERIFYPEER"])
def test_any_other_setting_from_the_first_byte(certified, helper, protocol, name):
    """Which is found before anything is known of the connection."""
    certified.set(**{name: "x"})
    session = helper(protocol, env={"PROXY_TLS_WRAP": "1"})
    assert session.ended()
    session.log.find("ERR: CONFIGURATION, ip=[", name)


def test_name_that_a_client_asks_for_is_in_no_log(secured, certified, helper, authority):
    """Not where it is none, either: it could be made to look like a line of ours."""
    session = helper(env={"PROXY_TLS_WRAP": "1"})
    name = "x-ip-203.0.113.9-x"
    hello = ssl.MemoryBIO()
    client = authority.trusting().wrap_bio(ssl.MemoryBIO(), hello, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    session.send(hello.read().replace(name.encode(), b"x ip=[203.0.113.9\xff"))
    try:
        session.rest()
    except ConnectionResetError:
        pass
    session.exit_status()
    text = session.log.text + session.log.rest().decode()
    assert "203.0.113.9" not in text
    assert all(line.startswith(("DEBUG: ", "INFO: ")) for line in text.splitlines())


# What goes on behind it


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_session(certified, secured, backend, protocol, way):
    """Every byte, both ways, whoever ends first; the log tells of TLS in each line about a login."""
    certified.account("u1", mailhost=backend.mailhost)
    session, tls = secured(protocol, way=way)
    tls.send(LOGIN[protocol].replace(b"secret", b"wrong"))
    tls.until(b"a1 NO [AUTHENTICATIONFAILED]" if protocol == "imap" else b"-ERR [AUTH]")
    port = session.socket.getsockname()[1]
    name = rf"ip=\[::ffff:127\.0\.0\.1\], port=\[{port}\], session=[0-9a-f]{{16}}"
    secure = f"{FLAG[protocol]}, tls=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384"
    about = rf"user=u1, {name}, protocol={protocol.upper()}"
    assert re.fullmatch(rf"INFO: LOGIN FAILED, {about}, {secure}: .*\n", session.log.find("FAILED"))
    more = bytes(range(256)) * 1000
    tls.send(LOGIN[protocol] + more[:3000])
    wire = backend.greet(GREETING[protocol])
    wire.send(read_login(protocol, wire).reply(b"OK in" if protocol == "imap" else b"+OK in") + more[:5000])
    where = rf"backend={re.escape(backend.mailhost)}"
    assert re.fullmatch(rf"INFO: LOGIN, {about}, {where}, {secure}\n", session.log.find("LOGIN"))
    tls.until(b"a1 OK in\r\n" if protocol == "imap" else b"+OK in\r\n")
    tls.send(more[3000:])
    assert wire.exactly(len(more)) == more
    wire.send(more[5000:])
    assert tls.exactly(len(more)) == more
    tls.half_close()
    assert wire.rest() == b""
    wire.send(b"last words")
    wire.half_close()
    assert tls.rest() == b"last words"
    assert session.ended()
    reply = len(b"a1 OK in\r\n" if protocol == "imap" else b"+OK in\r\n")
    counts = rf"rcvd={len(more)}, sent={reply + len(more) + 10}, time=\d"
    assert re.fullmatch(rf"INFO: LOGOUT, {about}, {where}, {counts}, {secure}\n", session.log.find("LOGOUT"))
    assert session.exit_status() == 0


@pytest.mark.parametrize("client", ["socketpair", "pipes"])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_stands_below(certified, secured, backend, way, client):
    certified.account("u1", mailhost=backend.mailhost)
    _, tls = secured(way=way, client=client)
    wire = log_in("imap", tls, backend)
    wire.send(b"* 1 EXISTS\r\n")
    assert tls.line() == b"* 1 EXISTS\r\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_commands_in_small_records(certified, secured, backend, protocol, way):
    certified.account("u1", mailhost=backend.mailhost)
    _, tls = secured(protocol, way=way)
    for byte in LOGIN[protocol]:
        tls.send(bytes([byte]))
    wire = backend.greet(GREETING[protocol])
    assert read_login(protocol, wire).password == b"secret"


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_client_that_does_not_wait(certified, helper, backend, authority, protocol, way, newest):
    """Its login comes with the end of the handshake."""
    certified.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))})
    if way == "starttls":
        session.line()
        start_tls(session, protocol)
    Tls(session, at_most(authority.trusting(), newest), FRONT, first=LOGIN[protocol])
    assert read_login(protocol, backend.greet(GREETING[protocol])).password == b"secret"


@pytest.mark.parametrize("way", WAYS)
def test_cut_off_is_no_end(secured, way):
    """Without a close_notify, somebody in between may have cut the connection."""
    session, _ = secured(way=way)
    session.half_close()
    session.log.find("INFO: DISCONNECTED", "TLS ended without a goodbye")
    assert session.exit_status() == 0


# A mailbox on this host


@pytest.fixture
def local(certified, secured, home):
    """Log in to an account that lives here, from behind TLS."""

    def begin(protocol: str = "imap", way: str = "starttls", more: bytes = b"", **options: object) -> tuple[Local, Tls]:
        certified.account("u1", home=str(home), mail=f"{home}/Mail")
        session, tls = secured(protocol, *SERVER, way=way, **options)
        tls.send(LOGIN[protocol] + more)
        assert tls.until(LOGGED_IN[protocol])[-1] == LOGGED_IN[protocol]
        return Local(session, home), tls

    return begin


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment_of_the_local_server(certified, local, front, protocol, way):
    certified.set(**{f"{protocol.upper()}_TLS_REQUIRED": 1})
    environment = local(protocol, way=way)[0].environment()
    upper = protocol.upper()
    expected = {
        f"{upper}_TLS": "1",
        f"{upper}_STARTTLS": "NO",
        f"{upper}_TLS_REQUIRED": "0",
        "AUTHENTICATED": "u1",
        "TCPREMOTEIP": "127.0.0.1",
        "TLS_CERTFILE": str(front.both),
    }
    assert {name: environment.get(name) for name in expected} == expected
    other = {"IMAP": "POP3", "POP3": "IMAP"}[upper]
    assert f"{other}_TLS" not in environment
    assert "PROXY_TLS_WRAP" not in environment


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment_behind_somebody_else_s_tls(certified, greeted, home, protocol):
    certified.account("u1", home=str(home), mail=f"{home}/Mail")
    upper = protocol.upper()
    session = greeted(protocol, *SERVER, env={f"{upper}_TLS": "1", "TLS_SUBJECT_COMMONNAME": "x"})
    session.send(LOGIN[protocol])
    session.until(LOGGED_IN[protocol])
    environment = Local(session, home).environment()
    assert [environment[f"{upper}_{name}"] for name in ("TLS", "STARTTLS", "TLS_REQUIRED")] == ["1", "NO", "0"]
    assert environment["TLS_SUBJECT_COMMONNAME"] == "x"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_environment_in_clear(certified, greeted, home, protocol):
    certified.account("u1", home=str(home), mail=f"{home}/Mail")
    session = greeted(protocol, *SERVER)
    session.send(LOGIN[protocol])
    session.until(LOGGED_IN[protocol])
    environment = Local(session, home).environment()
    assert not {"IMAP_TLS", "POP3_TLS", "IMAP_STARTTLS"} & environment.keys()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_processes(certified, local, protocol, way):
    """Ours is the activator's, without root; its child is the local server as the account's user."""
    certified.set(PROXY_USER="daemon")
    found, _ = local(protocol, way=way)
    ours = found.session.process.pid
    (child,) = children(ours)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"1000"}
    assert set(status["Groups"].split()) <= {"1000"}
    assert (found["cmdline"].split("\0")[-2], found["pwd"]) == (f"{found.home}/Mail", f"{found.home}\n")
    own = found.session.status()
    assert set(own["Uid"].split()) == set(own["Gid"].split()) == {"1"}
    assert set(own["Groups"].split()) <= {"1"}
    assert int(own["CapEff"], 16) == int(own["CapPrm"], 16) == 0
    for directory in (child, ours):
        assert sorted(map(int, os.listdir(f"/proc/{directory}/fd")))[:3] == [0, 1, 2]
    assert os.listdir(f"/proc/{child}/fd") == ["0", "1", "2"]
    assert not [fd for fd in ("0", "1") if "TCP" in os.readlink(f"/proc/{child}/fd/{fd}")]
    assert found.signals("SigIgn") == found.signals("SigBlk") == set()


def test_connection_of_the_child_blocks(local):
    found, _ = local()
    for fd in ("fd0", "fd1"):
        flags = re.search(r"flags:\s+0(\d+)", found[fd])
        assert flags
        assert not int(flags[1], 8) & os.O_NONBLOCK


def test_umask_of_the_child(certified, local):
    certified.set(IMAP_UMASK="027")
    assert local()[0]["umask"].strip() == "0027"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_follows_the_login_is_the_local_server_s(local, protocol, way):
    more = bytes(range(256)) * 300
    _, tls = local(protocol, way=way, more=more)
    assert tls.exactly(len(more)) == more
    tls.send(b"end")
    assert tls.exactly(3) == b"end"


def test_half_close_reaches_the_local_server(local):
    """`cat` ends, and all that it said arrives."""
    found, tls = local()
    tls.send(b"x" * 300_000)
    tls.half_close()
    assert tls.rest() == b"x" * 300_000
    assert found.session.ended()
    assert found.session.exit_status() == 0


def test_client_that_vanishes(local):
    found, _ = local()
    (child,) = children(found.session.process.pid)
    found.session.reset()
    assert found.session.exit_status() == 0
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists(), "the local server has not ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_death_of_the_local_server(local, number):
    found, tls = local()
    (child,) = children(found.session.process.pid)
    os.kill(child, number)
    assert tls.rest() == b""
    tls.half_close()
    found.session.half_close()
    assert found.session.ended()
    assert found.session.exit_status() == 0


def test_death_of_ours(local):
    """The activator kills the process that it knows: the local server sees its client gone."""
    found, _ = local()
    (child,) = children(found.session.process.pid)
    found.session.process.kill()
    assert found.session.ended()
    wait_until(lambda: not Path(f"/proc/{child}/exe").exists(), "the local server has not ended")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("/no/such/server", "/no/such/server is not a program"),
        ("no-path", "no-path is not an absolute path"),
        ("/etc/passwd", "/etc/passwd is not a program"),
        ("broken", "cannot run "),
        ("", "no local server is given"),
    ],
)
def test_server_that_cannot_be_run(certified, secured, backend, home, protocol, way, server, said):
    """It is not the user's fault, and the dialogue goes on: other accounts live elsewhere."""
    if server == "broken":
        server = str(home / "server")
        Path(server).write_text("#!/no/such/interpreter\n")
        Path(server).chmod(0o755)
    certified.account("u2", home=str(home))
    certified.account("u1", mailhost=backend.mailhost)
    session, tls = secured(protocol, *([server, "Maildir"] if server else []), way=way)
    for _ in range(2):
        tls.send(LOGIN[protocol].replace(b"u1", b"u2"))
        assert tls.until(b"a1 " if protocol == "imap" else b"-ERR")[-1].startswith(TEMPORARY[protocol])
        assert said in session.log.find("ERR: LOGIN DEFERRED, user=u2", FLAG[protocol])
    log_in(protocol, tls, backend)
    assert children(session.process.pid) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("fields", "reply", "said"),
    [
        ({"uid": "0"}, {"imap": b"a1 NO [CONTACTADMIN] ", "pop3": b"-ERR [SYS/PERM] "}, "REFUSED"),
        ({"home": "/no/such/home"}, TEMPORARY, "/no/such/home"),
        ({"uid": None}, TEMPORARY, "no uid and gid"),
    ],
)
def test_account_that_cannot_live_here(certified, secured, backend, home, protocol, fields, reply, said):
    certified.account("u2", **{"home": str(home)} | fields)
    certified.account("u1", mailhost=backend.mailhost)
    session, tls = secured(protocol, *SERVER)
    tls.send(LOGIN[protocol].replace(b"u1", b"u2"))
    assert tls.until(b"a1 " if protocol == "imap" else b"-ERR")[-1].startswith(reply[protocol])
    session.log.find("user=u2", said)
    log_in(protocol, tls, backend)


def test_proxy_user_that_is_not_there(certified, secured, home):
    """Found before the local server is started."""
    certified.set(PROXY_USER="no-such-user")
    certified.account("u1", home=str(home))
    session, tls = secured("imap", *SERVER)
    tls.send(LOGIN["imap"])
    assert tls.line().startswith(TEMPORARY["imap"])
    session.log.find("LOGIN DEFERRED, user=u1", "no-such-user")
    assert children(session.process.pid) == []
    assert not list(home.iterdir())


def test_key_of_an_account_is_not_asked_for_twice(certified, secured, home):
    """A wrong password first: the dialogue behind TLS is one like any other."""
    certified.account("u1", home=str(home), systempw=hashed("other"), imappw=hashed("secret"))
    _, tls = secured("imap", *SERVER)
    tls.send(LOGIN["imap"].replace(b"secret", b"other"))
    assert tls.line().startswith(b"a1 NO [AUTHENTICATIONFAILED] ")
    tls.send(LOGIN["imap"])
    assert tls.line() == LOGGED_IN["imap"]


def certificate_of(tls: Tls) -> str:
    return ssl.DER_cert_to_PEM_cert(tls.tls.getpeercert(binary_form=True) or b"")


def test_certificate_of_an_address(certified, secured, authority, front, tmp_path):
    """Of the address that the client came to; all others get the common one."""
    certified.set(TLS_CERTFILE=tmp_path / "front.pem")
    (tmp_path / "front.pem").write_text(front.both.read_text())
    other: Certificate = authority.issue("of-address", f"DNS:{FRONT}")
    (tmp_path / "front.pem.127.0.0.1").write_text(other.both.read_text())
    assert certificate_of(secured()[1]) == other.certificate.read_text()
    assert certificate_of(secured(client="mapped")[1]) == other.certificate.read_text()
    assert certificate_of(secured(client="tcp6")[1]) == front.certificate.read_text()
