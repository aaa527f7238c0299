"""TLS towards real backends: those whose certificate is good are used, all others never hear a password."""

from __future__ import annotations

import imaplib
import poplib
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support import b64, open_directory

from .activators import couriertcpd
from .certificates import DAY, Authority, Certificate
from .clients import LOGIN, Imap, check_mailbox, imap_message, log_out
from .conftest import SETTINGS
from .courier import configure
from .mail import Account, message
from .servers import PLAIN_ON_TLS_PORTS, PORTS, TLS_PORTS, dovecot
from .tls import WAYS, Front, logged_in, on_the_wire, tls_front
from .world import World, program, run

PASSWORD = "its-Secret"
NO_TLS = "none"
CERTIFICATES: dict[str, Callable[[Authority, list[str]], Certificate | None]] = {
    "good": lambda authority, names: authority.issue("good", *names),
    "expired": lambda authority, names: authority.issue("expired", *names, start=-9 * DAY, end=-DAY),
    "future": lambda authority, names: authority.issue("future", *names, start=DAY),
    "self-signed": lambda authority, names: authority.self_signed("self-signed", *names),
    "misnamed": lambda authority, _: authority.issue("misnamed", "DNS:elsewhere.example.com", "IP:192.0.2.1"),
    NO_TLS: lambda authority, names: None,
}
ADDRESSES = {kind: f"127.0.0.{number}" for number, kind in enumerate(CERTIFICATES, 20)}
ACCOUNTS = {kind: Account(f"{kind}@example.com", PASSWORD, f"{kind}.example.com") for kind in CERTIFICATES}
GOOD = ACCOUNTS["good"]
BY_ADDRESS = Account("by-address@example.com", PASSWORD, ADDRESSES["good"])
MISNAMED_ADDRESS = Account("misnamed-address@example.com", PASSWORD, ADDRESSES["misnamed"])
STALE = Account("stale@example.com", PASSWORD, GOOD.mailhost)
"""Its password here is not the one that the backend knows."""
OVERRIDING = {
    mode: Account(f"override-{mode}@example.com", PASSWORD, GOOD.mailhost, f"mailhosttls={mode}")
    for mode in ("no", "starttls", "yes", "perhaps")
}
MODES = {"no": "127.0.0.1", "starttls": "127.0.0.11", "yes": "127.0.0.12"}
"""The helper's address, by its site's setting."""
SYSTEM_STORE, STRANGE_STORE = "127.0.0.13", "127.0.0.14"


@dataclass(frozen=True)
class Place:
    """Where this module's helpers run."""

    world: World
    configuration: Path
    tls: dict[str, str]
    """Settings for TLS towards clients."""


@pytest.fixture(scope="module")
def place(authority: Authority) -> Iterator[Place]:
    """A host that knows the backends by name, and all backends."""
    known = [*ACCOUNTS.values(), BY_ADDRESS, MISNAMED_ADDRESS, STALE, *OVERRIDING.values()]
    front = authority.issue("front", *(f"IP:{address}" for address in (*MODES.values(), SYSTEM_STORE, STRANGE_STORE)))
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        hosts = directory / "hosts"
        hosts.write_text("".join(f"{address} {kind}.example.com\n" for kind, address in ADDRESSES.items()))
        for kind, make in CERTIFICATES.items():
            (directory / kind).mkdir()
            certificate = make(authority, [f"DNS:{kind}.example.com", f"IP:{ADDRESSES[kind]}"])
            settings = "" if certificate else PLAIN_ON_TLS_PORTS
            hosted = [replace(account, password="another") if account is STALE else account for account in known]
            server = dovecot(directory / kind, ADDRESSES[kind], hosted, certificate, settings=settings)
            stack.enter_context(server)
        configuration = configure(directory / "etc", known, directory / "homes", **SETTINGS)
        yield Place(World(files={"/etc/hosts": hosts}), configuration, {"TLS_CERTFILE": str(front.both)})


@contextmanager
def front_with(place: Place, mode: str, address: str, **settings: str) -> Iterator[Front]:
    environment = {"PROXYHELPER_CONFDIR": str(place.configuration), **place.tls, **settings}
    environment |= {"IMAP_PROXY_TLS": mode, "POP3_PROXY_TLS": mode}
    with (
        open_directory() as directory,
        tls_front(couriertcpd, directory, address, environment, place.world) as started,
    ):
        yield started
        for of_protocol in started.values():
            for listener in of_protocol.values():
                assert not listener.log.matching(f"Traceback|internal error|{PASSWORD}")


@pytest.fixture(scope="module")
def fronts(place: Place, authority: Authority) -> Iterator[dict[str, Front]]:
    """The helper in each mode."""
    with ExitStack() as stack:
        own_store = {"PROXY_CAFILE": str(authority.ca)}
        yield {
            mode: stack.enter_context(front_with(place, mode, address, **own_store)) for mode, address in MODES.items()
        }


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return authority.trusting()


@pytest.fixture(params=["starttls", "yes"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ports_of(mode: str) -> dict[str, int]:
    return TLS_PORTS if mode == "yes" else PORTS


TOLD_APART = {"imap": r"\[UNAVAILABLE\]", "pop3": r"\[SYS/TEMP\]"}


def refused(way: str, address: str, protocol: str, account: Account, context: ssl.SSLContext) -> str:
    """What a client is told in place of its mailbox."""
    with pytest.raises((imaplib.IMAP4.error, poplib.error_proto)) as told:
        logged_in(way, address, protocol, account, context)
    return str(told.value)


@pytest.mark.parametrize("account", [GOOD, BY_ADDRESS], ids=lambda account: account.name)
def test_good(
    fronts: dict[str, Front], mode: str, way: str, protocol: str, account: Account, context: ssl.SSLContext
) -> None:
    """Both sides are encrypted: every message byte for byte, and nothing of it can be read on the wire."""
    with on_the_wire() as seen:
        check_mailbox(logged_in("wrapped", MODES[mode], protocol, account, context))
        assert b"0123456789abcdef 0123456789abcdef" not in seen()
        assert account.name.encode() not in seen()
    log = fronts[mode]["wrapped"][protocol].log
    where = re.escape(f"backend={account.mailhost}:{ports_of(mode)[protocol]}")
    line = log.wait_for(f"LOGIN, user={account.name}, .*{where}")
    assert ", backend_tls=TLSv1.3" in line
    assert ", tls=TLSv1.3" in line
    assert re.search(r"rcvd=\d+, sent=86\d{4}", log.wait_for(f"LOGOUT, user={account.name}, .*{where}"))


def test_client_in_clear(fronts: dict[str, Front], mode: str, protocol: str) -> None:
    """Only the backend's side is encrypted."""
    check_mailbox(LOGIN[protocol](MODES[mode], GOOD))
    log = fronts[mode]["starttls"][protocol].log
    assert ", tls=" not in log.wait_for(f"LOGIN, user={GOOD.name}, .*, backend_tls=TLSv1.3$")


def test_upload(fronts: dict[str, Front], mode: str, context: ssl.SSLContext) -> None:
    """Two megabytes the other way."""
    uploaded = message("uploaded", b"".join(b"%07d up up up up\n" % n for n in range(80_000)))
    mail = logged_in("wrapped", MODES[mode], "imap", GOOD, context)
    assert isinstance(mail, Imap)
    mail.create("INBOX.Uploaded")
    assert mail.append("INBOX.Uploaded", "", "", uploaded)[0] == "OK"
    _, (count,) = mail.select("INBOX.Uploaded")
    assert imap_message(mail, int(count or 0)) == uploaded
    log_out(mail)


REASONS = {
    "expired": "certificate has expired",
    "future": "certificate is not yet valid",
    "self-signed": "self-signed certificate",
    "misnamed": "Hostname mismatch",
}
REFUSALS = [
    *((mode, ACCOUNTS[kind], reason) for mode in ("starttls", "yes") for kind, reason in REASONS.items()),
    *((mode, MISNAMED_ADDRESS, "IP address mismatch") for mode in ("starttls", "yes")),
    ("starttls", ACCOUNTS[NO_TLS], "does not offer STARTTLS"),
    ("yes", ACCOUNTS[NO_TLS], "TLS failed: wrong version number"),
]


@pytest.mark.parametrize(("mode", "account", "reason"), REFUSALS, ids=lambda value: getattr(value, "name", value))
def test_refused(
    fronts: dict[str, Front], mode: str, account: Account, reason: str, protocol: str, context: ssl.SSLContext
) -> None:
    """A temporary failure, whose reason is in the log; nothing goes over the wire in clear instead."""
    with on_the_wire() as seen:
        assert re.search(TOLD_APART[protocol], refused("wrapped", MODES[mode], protocol, account, context))
        secrets = [account.name.encode(), PASSWORD.encode(), b64(PASSWORD), b64("", account.name, PASSWORD)]
        assert not [secret for secret in secrets if secret in seen()]
    where = re.escape(f"{account.mailhost}:{ports_of(mode)[protocol]}")
    log = fronts[mode]["wrapped"][protocol].log
    line = log.wait_for(f"LOGIN DEFERRED, user={account.name}, .*{where}")
    assert reason in line


def test_wire_is_watched(fronts: dict[str, Front], protocol: str, context: ssl.SSLContext) -> None:
    """Where the site wants no TLS towards the backend, the wire shows it."""
    with on_the_wire() as seen:
        check_mailbox(logged_in("wrapped", MODES["no"], protocol, ACCOUNTS[NO_TLS], context))
        assert {word.encode() in seen() for word in (NO_TLS, PASSWORD)} == {True}


@pytest.mark.parametrize("of_site", MODES)
@pytest.mark.parametrize("of_account", ["no", "starttls", "yes"])
def test_mailhosttls(
    fronts: dict[str, Front], of_site: str, of_account: str, protocol: str, context: ssl.SSLContext
) -> None:
    """The account's word goes before the site's."""
    account = OVERRIDING[of_account]
    log_out(logged_in("wrapped", MODES[of_site], protocol, account, context))
    where = re.escape(f"backend={GOOD.mailhost}:{ports_of(of_account)[protocol]}")
    line = fronts[of_site]["wrapped"][protocol].log.wait_for(f"LOGIN, user={account.name}, .*{where}")
    assert ("backend_tls=" in line) == (of_account != "no")


def test_mailhosttls_that_is_none(fronts: dict[str, Front], protocol: str, context: ssl.SSLContext) -> None:
    account = OVERRIDING["perhaps"]
    assert re.search(TOLD_APART[protocol], refused("wrapped", MODES["no"], protocol, account, context))
    fronts["no"]["wrapped"][protocol].log.wait_for(f"LOGIN DEFERRED, user={account.name}, .*mailhosttls='perhaps'")


def test_systems_store(
    place: Place, authority: Authority, mode: str, protocol: str, context: ssl.SSLContext, area: Path
) -> None:
    """Without PROXY_CAFILE the system's authorities count."""
    (area / "ours.pem").write_bytes(authority.ca.read_bytes())
    run([program("openssl"), "rehash", str(area)])
    store = str(Path(ssl.get_default_verify_paths().openssl_capath).resolve())
    trusting = replace(place, world=World(files={**place.world.files, store: area}))
    with front_with(trusting, mode, SYSTEM_STORE):
        log_out(logged_in("wrapped", SYSTEM_STORE, protocol, GOOD, context))
    with front_with(place, mode, STRANGE_STORE) as started:
        assert re.search(TOLD_APART[protocol], refused("wrapped", STRANGE_STORE, protocol, GOOD, context))
        started["wrapped"][protocol].log.wait_for("unable to get local issuer certificate")


def test_wrong_password_over_tls(fronts: dict[str, Front], context: ssl.SSLContext) -> None:
    """At the end: Dovecot makes whoever comes from this address wait after it."""
    assert "AUTHENTICATIONFAILED" in refused("wrapped", MODES["starttls"], "imap", STALE, context)
    fronts["starttls"]["wrapped"]["imap"].log.wait_for(f"LOGIN REFUSED, user={STALE.name}, ")
