"""One table of cases against every source of accounts, and Courier's own daemon asked the same."""

from __future__ import annotations

import hashlib
import hmac
import imaplib
import poplib
import re
import socket
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scripted import Backend, read_login
from support import Wire, b64, open_directory

from proxyhelper import accounts
from proxyhelper.accounts.account import Account as FoundAccount
from proxyhelper.accounts.account import parse_options
from proxyhelper.accounts.listing import of_source
from proxyhelper.accounts.proofs import Password, Response
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings

from .activators import couriertcpd, front
from .clients import LOGIN, Client, Imap, Pop3, check_mailbox, connect
from .conftest import CAPABILITY, HOSTNAME
from .databases import PASSWORD, free_port
from .mail import MAIL_UID, Account, fill_maildir, home_of
from .servers import dovecot
from .sources import COLUMNS, SOURCES, Kept, Servers, Source, configured, every_source, files_of, servers, userdb_of
from .sources import source as started
from .world import LogFile

FRONT, BACKEND, SCRIPTED = "127.0.0.1", "127.0.0.4", "127.0.0.5"
FAR = Kept("far@example.com", 'pass word "x\\', mailhost=BACKEND, maildir="Other", quota="10000S")
CLEAR = Kept("clear@example.com", "clear-Secret", mailhost=BACKEND, clear=True)
ODD = (
    Kept("o'brien@example.com", "quote-Secret", mailhost=SCRIPTED),
    Kept('"quoted"@example.com', "quotes-Secret", mailhost=SCRIPTED),
    Kept("back\\slash@example.com", "back-Secret", mailhost=SCRIPTED),
    Kept("star*(paren)@example.com", "star-Secret", mailhost=SCRIPTED),
    Kept("per%cent_@example.com", "per-Secret", mailhost=SCRIPTED),
    Kept("$(local_part)@example.com", "dollar-Secret", mailhost=SCRIPTED),
    Kept("jürgen@exämple.com", "Gänse-Secret", mailhost=SCRIPTED),
    Kept("日本@例え.jp", "日本-Secret", mailhost=SCRIPTED),
)
PLAIN = (
    FAR,
    CLEAR,
    Kept("disabled@example.com", "disabled-Secret", mailhost=BACKEND, disabled=True),
    Kept("homeless@example.com", "homeless-Secret"),
    Kept("near@example.com", "near-Secret", mailhost=HOSTNAME, home="/somewhere"),
)
GOOD = (*PLAIN, *ODD)
CR = Kept("cr@example.com", "cr-Secret", mailhost="127.0.0.4\rX")
NUL = Kept("nul@example.com", "nul-Secret", mailhost="127.0.0.4\0X")

NOBODY = [
    *["", " ", "nobody@example.com", "far", "far@", "@example.com", "@", "a" * 3000 + "@example.com"],
    *["*", "%", "_", "?", "f*", "far*@example.com", "f%@example.com", "far@exampl_.com", "far@example.co%"],
    *["'", "\\", "\\'", '"', "far@example.com'", "far@example.com\\", "\\' OR 1=1 -- ", "' OR '1'='1"],
    *["x' OR '1'='1' -- @example.com", "far@example.com' -- ", "') OR ('1'='1", '" OR "1"="1'],
    *[
        "far@example.com'; DROP TABLE accounts; -- ",
        "far' || '@example.com",
        "far@example.com'||'",
        "CHAR(102)@example.com",
    ],
    f"' UNION SELECT {COLUMNS} FROM accounts -- ",
    *["*)(uid=*", "*)(objectClass=*)", "far@example.com)(|(uid=*", "(", ")", "&", "\\2a", "\\66ar@example.com"],
    *[
        "%s@example.com",
        "%(name)s",
        "%%",
        ":name",
        "$1@example.com",
        "${local_part}",
        "$(domain)",
        "$(service)@$(domain)",
    ],
    *["\0", "far@example.com\0", "far@example.com\0x", "far\r@example.com", "far@example.com\r", "far@example.com\n"],
    *["\nfar@example.com", "far@example.com\nx", "far@example.com\tx", "far@example.com|x", "#far@example.com"],
    *[
        "\udcff@example.com",
        "far@example.com\udcff",
        "far\udcc3@example.com",
        "juergen@exämple.com",
        "jurgen@exämple.com",
    ],
]
"""Names of nobody: syntax of SQL, of filters, of drivers, of the socket; bytes that no database has as text."""


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def local(homes: Path) -> Kept:
    """An account whose mailbox is on this host."""
    home = home_of(homes, Account("local", ""))
    fill_maildir(home / "Maildir")
    return Kept("local@example.com", "local-Secret", mailhost=HOSTNAME, home=str(home))


@pytest.fixture(scope="module")
def kept(local: Kept) -> Iterator[Servers]:
    with open_directory() as directory, servers(directory) as running:
        running.add([*GOOD, local])
        yield running


@pytest.fixture(scope="module")
def sources(kept: Servers, local: Kept) -> Iterator[dict[str, Source]]:
    with open_directory() as directory, every_source(directory, kept, [*GOOD, local, CR]) as made:
        yield made


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, sources: dict[str, Source]) -> Source:
    return sources[request.param]


def agree(account: FoundAccount, told: dict[str, str]) -> None:
    """What the helper has found is what Courier's tool prints. (authldap's address is escaped as for a filter.)"""
    found = re.fullmatch(r"(.*)  \(uid (\d+), gid (\d+)\)", told["Authenticated"])
    assert found
    assert (account.uid, account.gid) == (int(found[2]), int(found[3]))
    assert account.address == re.sub(r"\\(2a|28|29|5c)", lambda code: bytes.fromhex(code[1]).decode(), found[1])
    assert (account.home, account.maildir, account.quota) == (told["Home Directory"], told["Maildir"], told["Quota"])
    assert account.options == parse_options(told["Options"], "")
    assert account.password.decode() == told["Encrypted Password"]


@pytest.mark.parametrize("one", GOOD, ids=lambda one: one.name)
def test_found(source: Source, one: Kept) -> None:
    account = accounts.find(source.settings(), "imap", one.name)
    assert account.address == one.name
    assert (account.uid, account.gid, account.home) == (MAIL_UID, MAIL_UID, one.home)
    assert (account.maildir, account.quota) == (one.maildir or "", one.quota or "")
    assert account.options == one.options
    told = source.authtest(one.name)
    agree(account, told)
    assert account.cleartext.decode() == told["Cleartext Password"]


@pytest.mark.parametrize("one", GOOD, ids=lambda one: one.name)
def test_right_password(source: Source, one: Kept) -> None:
    account = accounts.authenticate(source.settings(), "imap", one.name, Password(one.password.encode()))
    assert account.address == one.name
    agree(account, source.authtest(one.name, one.password))


@pytest.mark.parametrize(
    "password", ["", "wrong", "PASS WORD", hashlib.sha1(b"x").hexdigest(), "x" * 3000, 'pass word "x', "'", "*"]
)
@pytest.mark.parametrize("one", [FAR, CLEAR], ids=["hash", "cleartext"])
def test_wrong_password(source: Source, one: Kept, password: str) -> None:
    with pytest.raises(WrongCredentials):
        accounts.authenticate(source.settings(), "imap", one.name, Password(password.encode()))
    assert not source.authtest(one.name, password)


def test_the_hash_is_no_password(source: Source) -> None:
    stored = accounts.find(source.settings(), "imap", FAR.name).password
    with pytest.raises(WrongCredentials):
        accounts.authenticate(source.settings(), "imap", FAR.name, Password(stored))


def is_left_to_postgres(source: Source, name: str) -> bool:
    """authdaemond asks PostgreSQL for names that are no UTF-8, and takes its complaint for a failure."""
    return source.module == "authdaemon" and not name.isprintable()


@pytest.mark.parametrize("name", NOBODY, ids=ascii)
def test_nobody(source: Source, name: str) -> None:
    settings = source.settings()
    with pytest.raises((WrongCredentials, Temporary) if is_left_to_postgres(source, name) else WrongCredentials):
        accounts.find(settings, "imap", name)
    with pytest.raises(WrongCredentials):
        accounts.authenticate(settings, "imap", name, Password(FAR.password.encode()))
    if name and not {"\0", "\n"} & set(name):  # as an argument, or in a line of the socket
        assert not source.authtest(name)
        assert not source.authtest(name, FAR.password)


@pytest.fixture
def spoilt(kept: Servers) -> Iterator[None]:
    kept.add([CR, NUL])
    yield
    kept.remove([CR, NUL])


@pytest.mark.parametrize("one", [CR, NUL], ids=["CR", "NUL"])
def test_stored_control_characters(source: Source, spoilt: None, one: Kept) -> None:
    if one is NUL and source.module not in ("authldap", "authmysql"):
        pytest.skip("PostgreSQL stores no NUL, and makeuserdb and authdaemond end the value there")
    settings = source.settings()
    for ask in asking(settings, one.name, one.password):
        with pytest.raises(Temporary) as raised:
            ask()
        check_text(raised.value)


MECHANISMS = {"CRAM-MD5": "md5", "CRAM-SHA1": "sha1", "CRAM-SHA256": "sha256"}


def response(mechanism: str, name: str, password: str) -> Response:
    challenge = b"<1.2@front.example>"
    digest = hmac.new(password.encode(), challenge, MECHANISMS[mechanism]).hexdigest()
    return Response(mechanism, challenge, f"{name} {digest}".encode())


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_cram(source: Source, mechanism: str) -> None:
    settings = source.settings()

    def authenticate(one: Kept, password: str) -> FoundAccount:
        return accounts.authenticate(settings, "imap", one.name, response(mechanism, one.name, password))

    if source.module == "authuserdb":
        with pytest.raises(WrongCredentials, match="cleartext"):
            authenticate(CLEAR, CLEAR.password)
        return
    account = authenticate(CLEAR, CLEAR.password)
    assert (account.address, account.cleartext) == (CLEAR.name, CLEAR.password.encode())
    for one, password in ((CLEAR, "wrong"), (CLEAR, ""), (FAR, FAR.password), (replace(FAR, name="nobody"), "x")):
        with pytest.raises(WrongCredentials):
            authenticate(one, password)


def test_every_account_is_listed(source: Source, local: Kept) -> None:
    """authenumerate prints them from the same clause."""
    wanted = {one.name: one.options for one in (*GOOD, local)}
    listed = {
        one.name: one for one in of_source(source.module, source.settings(), lambda size: None) if not one.problem
    }
    assert wanted.keys() <= listed.keys()
    found = {name: one.account(source.settings()) for name, one in listed.items() if name in wanted}
    assert {name: account.options for name, account in found.items()} == wanted
    assert {(account.uid, account.gid) for account in found.values()} == {(MAIL_UID, MAIL_UID)}
    printed = source.daemon.run("authenumerate").stdout.decode(errors="replace")
    assert {line.partition("\t")[0] for line in printed.splitlines()} >= wanted.keys()


def asking(settings: Settings, name: str, password: str) -> list[Callable[[], object]]:
    return [
        lambda: accounts.find(settings, "imap", name),
        lambda: accounts.authenticate(settings, "imap", name, Password(password.encode())),
    ]


def check_text(failure: Exception) -> None:
    """A line of the log, without anybody's password."""
    text = str(failure)
    assert text.isprintable()
    for secret in (PASSWORD, WRONG, FAR.password, "Secret"):
        assert secret not in text


WRONG = "our-wrong-one"


def broken(kept: Servers, how: str, port: int) -> dict[str, tuple[str, dict[str, str]]]:
    """Modules and files for servers that are asked at `port`, or with the wrong password."""
    servers = [kept.ldap, kept.mysql, kept.pgsql]
    changed = {"password": WRONG} if how == "wrong" else {"port": port}
    ldap, mysql, pgsql = (replace(server, **changed) for server in servers)  # type: ignore[type-var]
    return files_of(Servers(ldap, mysql, pgsql), [FAR])  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["stopped", "silent", "wrong"])
@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("authuserdb", "authdaemon")])
def test_server_that_fails(kept: Servers, area: Path, name: str, how: str) -> None:
    """Nobody is told that his password is wrong, unless by authdaemond: it says so."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if how == "silent" else free_port()
        module, files = broken(kept, how, port)[name]
        with started(area, module, files) as source:
            for ask in asking(source.settings(PROXY_ACCOUNT_TIMEOUT="1"), FAR.name, FAR.password):
                before = time.monotonic()
                with pytest.raises(Temporary) as raised:
                    ask()
                check_text(raised.value)
                assert time.monotonic() - before < 4
            if how != "silent":  # of timeouts it has its own
                find, authenticate = asking(source.settings(PROXY_AUTHMODULES="authdaemon"), FAR.name, FAR.password)
                with pytest.raises(WrongCredentials if module == "authldap" else Temporary):
                    find()
                with pytest.raises(WrongCredentials):
                    authenticate()
                assert not source.authtest(FAR.name)
                assert not source.authtest(FAR.name, FAR.password)


def test_no_userdb(area: Path) -> None:
    settings = Source(configured(area / "etc", "authuserdb", {})).settings()
    for ask in asking(settings, FAR.name, FAR.password):
        with pytest.raises(Temporary, match="userdb"):
            ask()


def test_no_authdaemond(sources: dict[str, Source]) -> None:
    for ask in asking(sources["authdaemon"].settings(authdaemonvar="/nonexistent"), FAR.name, FAR.password):
        with pytest.raises(Temporary, match="/nonexistent/socket"):
            ask()


FIRST = (replace(FAR, password="first-Secret", home="/first"), Kept("only@example.com", "only-Secret"))


@pytest.mark.parametrize("name", ["authldap", "authmysql", "authpgsql"])
@pytest.mark.parametrize("asked", ["themselves", "through authdaemond"])
def test_two_modules(kept: Servers, area: Path, name: str, asked: str) -> None:
    """The userdb, then the other; Courier's daemon goes through them in the same way."""
    module, files = files_of(kept, [])[name]
    with started(area, f"authuserdb {module}", {**files, "userdb": userdb_of(FIRST)}) as source:
        settings = source.settings(**({} if asked == "themselves" else {"PROXY_AUTHMODULES": "authdaemon"}))
        homes = {(FIRST[0].name, "first-Secret"): "/first", (FAR.name, FAR.password): FAR.home}
        homes |= {("only@example.com", "only-Secret"): "/nonexistent", (CLEAR.name, CLEAR.password): CLEAR.home}
        for (who, password), home in homes.items():
            account = accounts.authenticate(settings, "imap", who, Password(password.encode()))
            assert account.home == home
            agree(account, source.authtest(who, password))
        for who in (FAR.name, CLEAR.name, "only@example.com", "nobody@example.com"):
            with pytest.raises(WrongCredentials):
                accounts.authenticate(settings, "imap", who, Password(b"wrong"))
        assert accounts.find(settings, "imap", FAR.name).home == "/first"


@pytest.mark.parametrize("name", ["authldap", "authmysql", "authpgsql"])
def test_the_first_of_two_is_down(kept: Servers, area: Path, name: str) -> None:
    """The second has the account, and is not asked. (authdaemond 0.71.4 asks it, against what its document says.)"""
    module, files = broken(kept, "stopped", free_port())[name]
    site = Source(configured(area / "etc", f"{module} authuserdb", {**files, "userdb": userdb_of([FAR])}))
    for ask in asking(site.settings(), FAR.name, FAR.password):
        with pytest.raises(Temporary):
            ask()


DIALOGUE = {
    "IMAP_PROXY": "1",
    "POP3_PROXY": "1",
    "IMAP_CAPABILITY": f"{CAPABILITY} AUTH=PLAIN AUTH=CRAM-MD5 AUTH=CRAM-SHA256",
    "POP3AUTH": "PLAIN LOGIN CRAM-MD5 CRAM-SHA256",
    "LOGIN_FAIL_DELAY": "0",
    "PROXY_HOSTNAME": HOSTNAME,
}


@pytest.fixture(scope="module")
def dovecots() -> Iterator[None]:
    """The mailboxes of FAR and CLEAR."""
    accounts = [Account(one.name, one.password) for one in (FAR, CLEAR)]
    with open_directory() as directory, dovecot(directory, BACKEND, accounts):
        yield


@dataclass(frozen=True)
class Front:
    source: Source
    logs: dict[str, LogFile]


@pytest.fixture(scope="module", params=SOURCES)
def fronted(request: pytest.FixtureRequest, sources: dict[str, Source]) -> Iterator[Front]:
    """The helper under couriertcpd, with Courier's limit of memory."""
    source = sources[request.param]
    with open_directory() as directory, front(couriertcpd, directory, FRONT, {**DIALOGUE, **source.told}) as listeners:
        yield Front(source, {protocol: listener.log for protocol, listener in listeners.items()})


def test_mailbox_elsewhere(fronted: Front, dovecots: None, protocol: str) -> None:
    check_mailbox(LOGIN[protocol](FRONT, Account(FAR.name, FAR.password)))


def test_mailbox_here(fronted: Front, local: Kept, protocol: str) -> None:
    check_mailbox(LOGIN[protocol](FRONT, Account(local.name, local.password)))


def cram_login(protocol: str, mechanism: str, one: Kept) -> Client:
    def answer(challenge: bytes) -> bytes:
        return f"{one.name} {hmac.new(one.password.encode(), challenge, MECHANISMS[mechanism]).hexdigest()}".encode()

    if protocol == "imap":
        imap = Imap(FRONT)
        imap.authenticate(mechanism, answer)
        return imap
    pop3 = Pop3(FRONT)
    challenge = pop3._shortcmd(f"AUTH {mechanism}")  # type: ignore[attr-defined]
    pop3._shortcmd(b64encode(answer(b64decode(challenge[2:]))).decode())  # type: ignore[attr-defined]
    return pop3


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "CRAM-SHA256"])
def test_cram_login(fronted: Front, dovecots: None, protocol: str, mechanism: str) -> None:
    if fronted.source.module == "authuserdb":
        with pytest.raises((imaplib.IMAP4.error, poplib.error_proto)):
            cram_login(protocol, mechanism, CLEAR)
        fronted.logs[protocol].wait_for("clear@example.com.*cleartext")
    else:
        check_mailbox(cram_login(protocol, mechanism, CLEAR))


REFUSED = {
    "wrong password": (FAR.name, "not-the-one", "LOGIN FAILED"),
    "nobody": ("'OR'1'='1", FAR.password, "LOGIN FAILED"),
    "disabled": ("disabled@example.com", "disabled-Secret", "LOGIN REFUSED"),
    "no home": ("homeless@example.com", "homeless-Secret", "LOGIN DEFERRED"),
}


def refused(fronted: Front, name: str, password: str, event: str) -> None:
    with closing(Wire(connect(FRONT, "imap"))) as client:
        client.send(b"a AUTHENTICATE PLAIN " + b64("", name, password) + b"\r\n")
        reply = client.until(b"a ")[-1].decode()
    assert reply.startswith("a NO ")
    line = fronted.logs["imap"].wait_for(f"{event}, user={re.escape(name)},")
    assert password not in line + reply


@pytest.mark.parametrize(("name", "password", "event"), REFUSED.values(), ids=REFUSED)
def test_refused_login(fronted: Front, name: str, password: str, event: str) -> None:
    refused(fronted, name, password, event)


def test_refused_for_a_control_character(fronted: Front, spoilt: None) -> None:
    refused(fronted, CR.name, CR.password, "LOGIN DEFERRED")


@pytest.mark.parametrize("one", ODD, ids=lambda one: one.name)
def test_name_that_the_backend_is_told(fronted: Front, one: Kept) -> None:
    with closing(Backend(SCRIPTED, 143)) as backend, closing(Wire(connect(FRONT, "imap"))) as client:
        client.send(b"a AUTHENTICATE PLAIN " + b64("", one.name, one.password) + b"\r\n")
        wire = backend.greet(b"* OK scripted\r\n")
        login = read_login("imap", wire)
        assert (login.user, login.password) == (one.name.encode(), one.password.encode())
        wire.send(login.reply(b"OK in"))
        client.until(b"a OK")
