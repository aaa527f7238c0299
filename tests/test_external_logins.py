"""EXTERNAL: a client whose certificate says who it is, to us or to whoever has done its TLS."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from real.certificates import Authority, Certificate
from scripted import GREETING, LOGIN, Backend, log_in, read_login, start_tls
from support import FRONT, PLACES, Tls, Wire, b64, open_directory
from test_cram_logins import STUB
from test_local import LOGGED_IN, SERVER, Local

PROTOCOLS = ("imap", "pop3")
WAYS = ("starttls", "wrapped")
NAME = "u1@example.com"
BEGIN = {"imap": b"a1 AUTHENTICATE EXTERNAL", "pop3": b"AUTH EXTERNAL"}
REFUSED = {
    "imap": b"a1 NO [CANNOT] Authentication mechanism is not supported.",
    "pop3": b"-ERR Authentication mechanism",
}
WRONG = {"imap": b"a1 NO [AUTHENTICATIONFAILED] ", "pop3": b"-ERR [AUTH] "}
TEMPORARY = {"imap": b"a1 NO [UNAVAILABLE] ", "pop3": b"-ERR [SYS/TEMP] "}


def try_external(wire: Wire, protocol: str, authzid: str | None = "") -> None:
    """With an initial response; asked for where it is None, and empty then."""
    if authzid is not None:
        wire.send(BEGIN[protocol] + b" " + (b64(authzid) or b"=") + b"\r\n")
        return
    wire.send(BEGIN[protocol] + b"\r\n")
    assert wire.line() == b"+ \r\n"
    wire.send(b"\r\n")


def shown(wire: Wire, protocol: str) -> list[bytes]:
    """The mechanisms that are offered."""
    if protocol == "imap":
        wire.send(b"c CAPABILITY\r\n")
        words = wire.until(b"c ")[0].split()
        return [word.removeprefix(b"AUTH=") for word in words if word.startswith(b"AUTH=")]
    wire.send(b"CAPA\r\n")
    return next(line for line in wire.until(b".") if line.startswith(b"SASL ")).split()[1:]


# Behind couriertls or stunnel


@pytest.fixture
def behind(site, greeted):
    """Greeted behind somebody else's TLS, who has told this of the client's certificate."""
    site.set(TLS_EXTERNAL="emailaddress")

    def begin(protocol: str, *local: str, env: dict[str, str] | None = None):
        told = {"TLS_SUBJECT_EMAILADDRESS": NAME} if env is None else env
        return greeted(protocol, *local, env={f"{protocol.upper()}_TLS": "1", **told})

    return begin


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_offered_to_those_with_a_name(behind, protocol):
    assert shown(behind(protocol), protocol) == [b"PLAIN", b"LOGIN", b"EXTERNAL"]


@pytest.mark.parametrize("authzid", ["", NAME, None])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mailbox_on_this_host(site, behind, home, protocol, authzid):
    site.account(NAME, home=str(home), mail=f"{home}/Mail")
    session = behind(protocol, *SERVER)
    try_external(session, protocol, authzid)
    assert session.line() == LOGGED_IN[protocol]
    assert Local(session, home).environment()["AUTHENTICATED"] == NAME


@pytest.mark.parametrize("authzid", ["admin", "U1@example.com", NAME + " ", NAME + "\0", "\0"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_acting_for_somebody_else(site, behind, home, protocol, authzid):
    site.account(NAME, home=str(home))
    site.account("admin", home=str(home))
    session = behind(protocol, *SERVER)
    try_external(session, protocol, authzid)
    assert session.line().startswith(WRONG[protocol])
    session.log.find("INFO: LOGIN FAILED, user=, ip=[")
    try_external(session, protocol)
    assert session.until(LOGGED_IN[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_account_that_is_not_there(site, behind, protocol):
    """As a wrong password."""
    session = behind(protocol)
    try_external(session, protocol)
    assert session.line().startswith(WRONG[protocol])
    session.log.find(f"INFO: LOGIN FAILED, user={NAME}, ip=[")


@pytest.mark.parametrize("option", ["disable{}", "disableinsecure{}"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_options_count(site, behind, home, protocol, option):
    site.account(NAME, home=str(home), mail=f"{home}/Mail", options=option.format(protocol) + "=1")
    session = behind(protocol, *SERVER)
    try_external(session, protocol)
    if "insecure" in option:
        assert session.line() == LOGGED_IN[protocol]
    else:
        assert session.line().startswith((b"a1 NO [CONTACTADMIN] ", b"-ERR [SYS/PERM] "))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_default_domain(site, behind, home, protocol):
    site.set(DEFDOMAIN="@example.com", TLS_EXTERNAL="commonName")
    site.account(NAME, home=str(home), mail=f"{home}/Mail")
    session = behind(protocol, *SERVER, env={"TLS_SUBJECT_COMMONNAME": "u1"})
    try_external(session, protocol, "u1")
    assert session.line() == LOGGED_IN[protocol]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("settings", "env"),
    [
        ({}, {}),
        ({}, {"TLS_SUBJECT_EMAILADDRESS": ""}),
        ({}, {"TLS_SUBJECT_COMMONNAME": NAME}),
        ({"TLS_SUBJECT_EMAILADDRESS": NAME}, {}),
        ({"TLS_EXTERNAL": ""}, {"TLS_SUBJECT_EMAILADDRESS": NAME, "TLS_SUBJECT_": NAME}),
        ({}, {"TLS_SUBJECT_EMAILADDRESS": NAME, "IMAP_TLS": "0", "POP3_TLS": "0"}),
        ({"IMAP_TLS": "1", "POP3_TLS": "1"}, {"TLS_SUBJECT_EMAILADDRESS": NAME, "IMAP_TLS": "", "POP3_TLS": ""}),
    ],
)
def test_nobody_s_name(site, behind, protocol, settings, env):
    """The subject counts behind TLS only, and from the environment only."""
    site.set(**settings)
    site.account(NAME)
    session = behind(protocol, env=env)
    assert shown(session, protocol) == [b"PLAIN", b"LOGIN"]
    try_external(session, protocol)
    assert session.line().startswith(REFUSED[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_name_of_somebody_s_tls_is_not_that_of_ours(certified, helper, authority, protocol):
    """With STARTTLS to us, the environment tells of nobody."""
    certified.set(TLS_EXTERNAL="emailaddress")
    session = helper(protocol, env={"TLS_SUBJECT_EMAILADDRESS": NAME})
    session.line()
    assert shown(session, protocol) == [b"PLAIN", b"LOGIN"]
    start_tls(session, protocol)
    assert shown(Tls(session, authority.trusting(), FRONT), protocol) == [b"PLAIN", b"LOGIN"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_name_that_cannot_be_one(site, behind, protocol):
    session = behind(protocol, env={"TLS_SUBJECT_EMAILADDRESS": "u1\r\nx"})
    try_external(session, protocol)
    assert session.line().startswith(WRONG[protocol])


# A backend


@pytest.fixture
def with_cleartext(behind, site):
    """A source that has the password in clear: what stands in front of a command."""
    site.set(PROXY_AUTHMODULES="authmysql")
    place = next(place for place in PLACES if (place / "proxyhelper").is_dir())

    def make(backend: Backend) -> list[str]:
        fields = {"fields": "cleartext=b'secret'", "function": "find"}
        code = STUB.format(place=str(place), mailhost=backend.mailhost, **fields)
        return [sys.executable, "-I", "-S", "-c", code]

    return make


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_is_told_the_source_s_password(with_cleartext, greeted, backend, protocol):
    env = {f"{protocol.upper()}_TLS": "1", "TLS_SUBJECT_EMAILADDRESS": NAME}
    session = greeted(protocol, wrapped=with_cleartext(backend), env=env)
    try_external(session, protocol)
    wire = backend.greet(GREETING[protocol])
    login = read_login(protocol, wire)
    assert (login.user, login.password) == (NAME.encode(), b"secret")
    wire.send(login.reply(b"OK in" if protocol == "imap" else b"+OK in"))
    assert session.line() == (b"a1 OK in\r\n" if protocol == "imap" else b"+OK in\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_backend_without_a_password_for_it(site, behind, backend, protocol):
    site.account(NAME, mailhost=backend.mailhost)
    session = behind(protocol)
    try_external(session, protocol)
    assert session.line().startswith(TEMPORARY[protocol])
    session.log.find("ERR: LOGIN DEFERRED, user=u1@example.com", "needs the password in clear", "EXTERNAL")
    assert backend.untouched()


# Our own TLS


@pytest.fixture(scope="module")
def clients() -> Iterator[Authority]:
    """Who certifies clients."""
    with open_directory() as directory:
        yield Authority(directory)


@pytest.fixture(scope="module")
def somebody(clients: Authority) -> Certificate:
    return clients.issue("somebody", subject=f"/CN=Some Body/emailAddress={NAME}")


@pytest.fixture(scope="module")
def foreign() -> Iterator[Certificate]:
    """The same name, from an authority that nobody here knows."""
    with open_directory() as directory:
        yield Authority(directory).issue("somebody", subject=f"/CN=Some Body/emailAddress={NAME}")


@pytest.fixture
def asking(certified, clients):
    """Settings that ask for certificates."""
    certified.set(TLS_VERIFYPEER="PEER", TLS_TRUSTCERTS=clients.ca, TLS_EXTERNAL="emailaddress")
    return certified


@pytest.fixture
def showing(authority):
    """What a client needs that shows a certificate."""

    def make(certificate: Certificate | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = authority.trusting()
        context.maximum_version = newest
        if certificate:
            context.load_cert_chain(certificate.both)
        return context

    return make


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("verify", ["PEER", "REQUIREPEER", "requirepeer"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificate(asking, secured, showing, somebody, home, protocol, way, verify, newest):
    asking.set(TLS_VERIFYPEER=verify)
    asking.account(NAME, home=str(home), mail=f"{home}/Mail")
    session, tls = secured(protocol, *SERVER, way=way, context=showing(somebody, newest))
    assert shown(tls, protocol) == [b"PLAIN", b"LOGIN", b"EXTERNAL"]
    try_external(tls, protocol, NAME)
    assert tls.line() == LOGGED_IN[protocol]
    assert Local(session, home).environment()["AUTHENTICATED"] == NAME


@pytest.mark.parametrize("authzid", ["admin", "somebody", "Some Body"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_acting_for_somebody_else_than_the_certificate_s(asking, secured, showing, somebody, home, protocol, authzid):
    asking.account(authzid.replace(" ", ""), home=str(home))
    session, tls = secured(protocol, *SERVER, context=showing(somebody))
    try_external(tls, protocol, authzid)
    assert tls.line().startswith(WRONG[protocol])
    session.log.find("INFO: LOGIN FAILED, user=, ip=[")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_a_certificate(asking, secured, backend, protocol, way):
    """It is asked for, not demanded."""
    asking.account("u1", mailhost=backend.mailhost)
    _, tls = secured(protocol, way=way)
    assert shown(tls, protocol) == [b"PLAIN", b"LOGIN"]
    try_external(tls, protocol)
    assert tls.line().startswith(REFUSED[protocol])
    log_in(protocol, tls, backend)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("verify", "who", "reason"),
    [
        ("REQUIREPEER", "nobody", "did not return a certificate"),
        ("REQUIREPEER", "foreign", "the certificate was refused: unable to get local issuer certificate"),
        ("PEER", "foreign", "the certificate was refused: unable to get local issuer certificate"),
    ],
)
def test_certificate_that_is_refused(asking, helper, showing, foreign, protocol, way, verify, who, reason, newest):
    """A wrong one is no handshake; the client hears an alert, at the latest when it waits for words."""
    asking.set(TLS_VERIFYPEER=verify)
    context = showing(foreign if who == "foreign" else None, newest)
    session = helper(protocol, env={"PROXY_TLS_WRAP": str(int(way == "wrapped"))})
    if way == "starttls":
        session.line()
        start_tls(session, protocol)
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):  # noqa: PT012  TLS 1.3 tells it behind the handshake
        tls = Tls(session, context, FRONT)
        tls.line()
    assert reason in session.log.find("INFO: DISCONNECTED, ip=[", ": TLS handshake failed: ")
    assert session.exit_status() == 0


@pytest.mark.parametrize("verify", ["NONE", ""])
@pytest.mark.parametrize("who", ["somebody", "foreign"])
def test_not_asked_for(asking, secured, showing, request, verify, who):
    """Then a certificate proves nothing, whoever has signed it."""
    asking.set(TLS_VERIFYPEER=verify)
    _, tls = secured(context=showing(request.getfixturevalue(who)))
    assert shown(tls, "imap") == [b"PLAIN", b"LOGIN"]


def test_not_wanted_for_logins(asking, secured, showing, somebody):
    asking.set(TLS_EXTERNAL="")
    _, tls = secured(context=showing(somebody))
    assert shown(tls, "imap") == [b"PLAIN", b"LOGIN"]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("emailaddress", NAME),
        ("emailAddress", NAME),
        ("EMAILADDRESS", NAME),
        ("commonname", "Some Body"),
        ("CN", "Some Body"),
        ("organizationname", None),
        ("O", None),
        ("email", None),
    ],
)
def test_fields_of_the_subject(asking, secured, showing, somebody, field, name):
    asking.set(TLS_EXTERNAL=field)
    session, tls = secured(context=showing(somebody))
    assert (b"EXTERNAL" in shown(tls, "imap")) == (name is not None)
    if name:
        try_external(tls, "imap", name)
        escaped = name.replace(" ", "\\x20")
        session.log.find(f"INFO: LOGIN FAILED, user={escaped}, ip=[")


def test_subject_with_two_names(asking, secured, showing, clients):
    """Which of them it would be is nobody's to choose."""
    both = clients.issue("two", subject=f"/CN=two/emailAddress={NAME}/emailAddress=admin@example.com")
    _, tls = secured(context=showing(both))
    assert shown(tls, "imap") == [b"PLAIN", b"LOGIN"]


def test_subject_that_is_not_ascii(asking, secured, showing, clients, home):
    """Of two bytes of UTF-8, OpenSSL's command makes two characters."""
    asking.set(TLS_EXTERNAL="commonname")
    asking.account("j\u00c3\u00b6rg", home=str(home), mail=f"{home}/Mail")
    certificate = clients.issue("joerg", subject="/CN=j\u00f6rg")
    _, tls = secured("imap", *SERVER, context=showing(certificate))
    try_external(tls, "imap", "j\u00c3\u00b6rg")
    assert tls.line() == LOGGED_IN["imap"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_authorities(asking, secured, showing, somebody, clients, tmp_path, kind):
    """A file, or a directory as c_rehash makes it."""
    if kind == "directory":
        command = ["openssl", "x509", "-subject_hash", "-noout", "-in", str(clients.ca)]
        name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / "trusted").mkdir()
        Path(tmp_path, "trusted", f"{name}.0").write_text(clients.ca.read_text())
        asking.set(TLS_TRUSTCERTS=tmp_path / "trusted")
    _, tls = secured(context=showing(somebody))
    assert b"EXTERNAL" in shown(tls, "imap")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_password_with_a_certificate(asking, secured, showing, somebody, backend, protocol):
    """Whoever has one may log in as anybody whose password he knows."""
    asking.account("u1", mailhost=backend.mailhost)
    _, tls = secured(protocol, context=showing(somebody))
    tls.send(LOGIN[protocol])
    assert read_login(protocol, backend.greet(GREETING[protocol])).user == b"u1"


def test_certificate_that_has_expired(asking, secured, showing, clients):
    old = clients.issue("old", subject=f"/CN=old/emailAddress={NAME}", start=-timedelta(days=9), end=-timedelta(days=1))
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        secured(way="wrapped", context=showing(old))
