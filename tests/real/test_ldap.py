"""Accounts in a real OpenLDAP, with Courier's schema and DNs written as Courier's sample writes them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from support import open_directory

from proxyhelper.accounts import ldap
from proxyhelper.accounts.account import Account
from proxyhelper.accounts.ldap import session as ldap_session
from proxyhelper.accounts.ldap import transport as ldap_transport
from proxyhelper.accounts.proofs import Password, Response
from proxyhelper.failures import Temporary, WrongCredentials
from proxyhelper.settings import Settings, Values

from .databases import PASSWORD, SUFFIX, Slapd, slapd

BASE = SUFFIX.replace(",", ", ")
ENTRIES = """\
dn: uid=u1,SUFFIX
objectClass: inetOrgPerson
objectClass: CourierMailAccount
uid: u1
uid: jürgen
cn: One
sn: One
mail: u1@example.com
mail: one@example.com
homeDirectory: homes/u1
mailbox: /mail/u1
quota: 5S
uidNumber: 1001
gidNumber: 1002
userPassword: secret1
clearPassword: secret1
mailHost: a.example
disableimap: 0

dn: uid=u2,SUFFIX
objectClass: inetOrgPerson
objectClass: CourierMailAccount
uid: u2
cn: Two
sn: Two
mail: u2@example.com
mail: both@example.com
homeDirectory: /homes/u2
userPassword: {SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=

dn: uid=x*)(uid\\=u1,SUFFIX
objectClass: inetOrgPerson
objectClass: CourierMailAccount
uid: x*)(uid=u1
cn: Three
sn: Three
mail: both@example.com
homeDirectory: /homes/u3
userPassword: secret3

dn: uid=u4,SUFFIX
objectClass: inetOrgPerson
objectClass: CourierMailAccount
uid: u4
cn: Four
sn: Four
mail: u4@example.com
homeDirectory:: YQ1i

dn: ou=people,SUFFIX
objectClass: organizationalUnit
ou: people

dn: cn=elsewhere,SUFFIX
objectClass: referral
objectClass: extensibleObject
cn: elsewhere
ref: ldap://127.0.0.1:9/SUFFIX

dn: cn=alias,ou=people,SUFFIX
objectClass: alias
objectClass: extensibleObject
cn: alias
aliasedObjectName: uid=u1,SUFFIX

dn: ou=map,SUFFIX
objectClass: organizationalUnit
ou: map

dn: cn=jo,ou=map,SUFFIX
objectClass: person
objectClass: extensibleObject
cn: jo
sn: example.org
description: u1@example.com

dn: cn=nothing,ou=map,SUFFIX
objectClass: person
objectClass: extensibleObject
cn: nothing
sn: example.org
"""
Site = Callable[..., Settings]


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    with open_directory() as directory, slapd(directory, tls=True) as server:
        server.load(ENTRIES.replace("SUFFIX", SUFFIX))
        yield server


@pytest.fixture
def site(server: Slapd, tmp_path: Path) -> Site:
    """The settings of a site with this authldaprc."""

    def make(environment: Mapping[str, str] = {}, **values: object) -> Settings:
        settings = {
            "LDAP_URI": server.uri,
            "LDAP_PROTOCOL_VERSION": 3,
            "LDAP_BASEDN": BASE,
            "LDAP_BINDDN": f"cn=administrator, {BASE}",
            "LDAP_BINDPW": PASSWORD,
            "LDAP_INITBIND": 1,
            "LDAP_TIMEOUT": 5,
            "LDAP_MAIL": "mail",
            "LDAP_HOMEDIR": "HOMEdirectory",
            "LDAP_MAILDIR": "mailbox",
            "LDAP_MAILDIRQUOTA": "quota",
            "LDAP_CRYPTPW": "userPassword",
            "LDAP_UID": "uidNumber",
            "LDAP_GID": "gidNumber",
            "LDAP_AUXOPTIONS": "mailhost=mailhost,disableImap=disableimap,disablepop3=disablepop3",
            **values,
        }
        text = "".join(f"{name}\t{value}\n" for name, value in settings.items())
        (tmp_path / "authldaprc").write_text(text)
        return Settings("imap", str(tmp_path), {}, Values(environment, {}))

    return make


def find(settings: Settings, name: str) -> Account:
    return ldap.find(settings, "imap", name)


def log_in(settings: Settings, name: str, password: str | bytes) -> Account:
    secret = password.encode() if isinstance(password, str) else password
    return ldap.authenticate(settings, "imap", name, Password(secret))


def test_account(site: Site) -> None:
    account = find(site(LDAP_MAILROOT="/var/mail"), "u1@example.com")
    assert (account.address, account.uid, account.gid) == ("u1@example.com", 1001, 1002)
    assert (account.home, account.maildir, account.quota) == ("/var/mail/homes/u1", "/mail/u1", "5S")
    assert account.options == {"mailhost": "a.example", "disableimap": "0"}
    assert (account.password, account.cleartext) == (b"secret1", b"")


def test_absent_attributes_are_absent(site: Site) -> None:
    account = find(site(LDAP_GLOB_UID="root"), "u2@example.com")
    assert (account.uid, account.gid, account.maildir, account.quota, account.options) == (0, None, "", "", {})


def test_passwords(site: Site) -> None:
    assert log_in(site(), "u2@example.com", "test").address == "u2@example.com"
    for name, password in (("u2@example.com", "tess"), ("u2@example.com", ""), ("nobody@example.com", "test")):
        with pytest.raises(WrongCredentials):
            log_in(site(), name, password)


def test_cleartext_counts_and_serves_cram(site: Site) -> None:
    settings = site(LDAP_CLEARPW="CLEARpassword")
    assert find(settings, "u1@example.com").cleartext == b"secret1"
    assert find(settings, "u1@example.com").password == b""
    assert log_in(settings, "u1@example.com", "secret1")
    response = Response("CRAM-MD5", b"<1@x>", b"u1 d41d8cd98f00b204e9800998ecf8427e")
    with pytest.raises(WrongCredentials, match="wrong response"):
        ldap.authenticate(settings, "imap", "u1@example.com", response)


@pytest.mark.parametrize("name", ["*", "u1*", "u1@example.com)(uid=*", "(", ")", "\\2a", "u\0", "u1@example.com\\", ""])
def test_filter_syntax_in_a_name_finds_nobody(site: Site, name: str) -> None:
    with pytest.raises(WrongCredentials, match="no such account"):
        find(site(), name)


@pytest.mark.parametrize(("name", "number", "uid"), [("x*)(uid=u1", 3, None), ("jürgen", 1, 1001)])
def test_names_with_more_than_letters(site: Site, name: str, number: int, uid: int | None) -> None:
    settings = site(LDAP_MAIL="uid", LDAP_AUTHBIND=1)
    account = find(settings, name)
    assert (account.address, account.uid) == (name, uid)
    assert log_in(settings, name, f"secret{number}").uid == uid


def test_values_that_break_lines(site: Site) -> None:
    with pytest.raises(Temporary, match=r"HOMEdirectory of the entry 'uid=u4,.*' holds CR"):
        find(site(), "u4@example.com")


def test_name_in_another_encoding_finds_nobody(site: Site) -> None:
    with pytest.raises(WrongCredentials):
        find(site(LDAP_MAIL="uid"), "j\udcfcrgen")


def test_more_than_one_entry(site: Site) -> None:
    with pytest.raises(Temporary, match=r"\(mail=both@example\.com\) finds more than one entry"):
        find(site(), "both@example.com")
    assert find(site(LDAP_FILTER="(uid=u2)"), "both@example.com").home == "/homes/u2"


def test_filter_and_domain(site: Site) -> None:
    settings = site(LDAP_FILTER="(&(objectClass=CourierMailAccount) (!(disableimap=1)))", LDAP_DOMAIN="example.com")
    assert find(settings, "u1").address == "u1"
    with pytest.raises(WrongCredentials):
        find(site(LDAP_FILTER="(disableimap=1)"), "u1@example.com")
    with pytest.raises(Temporary, match="is not an LDAP filter"):
        find(site(LDAP_FILTER="(disableimap=1"), "u1@example.com")


def test_uris(site: Site, server: Slapd) -> None:
    for uri in (server.uri + "/", server.socket_uri, f"ldap://127.0.0.1:1, {server.uri}"):
        assert find(site(LDAP_URI=uri), "u1@example.com").uid == 1001


def test_emailmap(site: Site) -> None:
    settings = site(
        LDAP_EMAILMAP="(&(cn=@user@)(sn=@realm@))",
        LDAP_EMAILMAP_BASEDN=f"ou=map, {BASE}",
        LDAP_EMAILMAP_ATTRIBUTE="Description",
    )
    account = find(settings, "jo@example.org")
    assert (account.address, account.uid) == ("jo@example.org", 1001)
    for name in ("*@example.org", "jo@*", "jo", "u1@example.com", "nothing@example.org"):
        with pytest.raises(WrongCredentials):
            find(settings, name)
    with pytest.raises(WrongCredentials):
        find(site(LDAP_EMAILMAP="(cn=@user@)", LDAP_EMAILMAP_ATTRIBUTE="sn"), "jo@x")


def test_aliases(site: Site) -> None:
    people = f"ou=people, {BASE}"
    for how in ("never", "finding"):
        with pytest.raises(WrongCredentials):
            find(site(LDAP_BASEDN=people, LDAP_DEREF=how), "u1@example.com")
    for how in ("searching", "always"):
        assert find(site(LDAP_BASEDN=people, LDAP_DEREF=how), "u1@example.com").uid == 1001


class TestAuthbind:
    def test_right_and_wrong(self, site: Site) -> None:
        settings = site(LDAP_AUTHBIND=1, LDAP_CRYPTPW="")
        account = log_in(settings, "u1@example.com", "secret1")
        assert (account.address, account.password) == ("u1@example.com", b"")
        for password in ("secret2", "", "\0", b"\xff"):
            with pytest.raises(WrongCredentials):
                log_in(settings, "u1@example.com", password)

    def test_without_initial_bind(self, site: Site) -> None:
        assert log_in(site(LDAP_AUTHBIND=1, LDAP_INITBIND=0), "u2@example.com", "test").home == "/homes/u2"

    def test_cram_is_refused(self, site: Site) -> None:
        settings = site(LDAP_AUTHBIND=1, LDAP_CLEARPW="clearPassword")
        with pytest.raises(WrongCredentials, match="CRAM-MD5 is not possible with LDAP_AUTHBIND"):
            ldap.authenticate(settings, "imap", "u1@example.com", Response("CRAM-MD5", b"c", b"r"))


class TestTls:
    @pytest.fixture(params=["ldaps", "StartTLS"])
    def tls_site(self, request: pytest.FixtureRequest, site: Site, server: Slapd) -> Site:
        def make(environment: dict[str, str], host: str = "127.0.0.1") -> Settings:
            uri, start = (server.tls_uri, 0) if request.param == "ldaps" else (server.uri, 1)
            return site(environment, LDAP_URI=uri.replace("127.0.0.1", host), LDAP_TLS=start)

        return make

    def test_verified(self, tls_site: Site, server: Slapd) -> None:
        assert server.tls
        for host in ("127.0.0.1", "localhost"):
            settings = tls_site({"LDAPTLS_CACERT": str(server.tls.file)}, host)
            assert find(settings, "u1@example.com").uid == 1001

    def test_other_host_name(self, tls_site: Site, server: Slapd) -> None:
        assert server.tls
        with pytest.raises(Temporary, match=r"certificate verify failed: (IP|Host).* mismatch"):
            find(tls_site({"LDAPTLS_CACERT": str(server.tls.file)}, "127.1"), "u1@example.com")

    @pytest.mark.parametrize("demand", ["", "demand", "try", "hard"])
    def test_unknown_ca(self, tls_site: Site, demand: str) -> None:
        with pytest.raises(Temporary, match=r"certificate verify failed.*LDAPTLS_CACERT"):
            find(tls_site({"LDAPTLS_REQCERT": demand}), "u1@example.com")

    @pytest.mark.parametrize("demand", ["never", "allow"])
    def test_unverified(self, tls_site: Site, demand: str) -> None:
        assert find(tls_site({"LDAPTLS_REQCERT": demand}, "127.1"), "u1@example.com").uid == 1001

    def test_certificate_of_our_own(self, tls_site: Site, server: Slapd) -> None:
        assert server.tls
        files = {"LDAPTLS_CACERT": server.tls.file, "LDAPTLS_CERT": server.tls.file, "LDAPTLS_KEY": server.tls.key}
        settings = tls_site({name: str(file) for name, file in files.items()})
        assert find(settings, "u1@example.com").uid == 1001


class TestFailures:
    def test_our_own_password_is_wrong(self, site: Site) -> None:
        with pytest.raises(Temporary, match=r"invalidCredentials.*LDAP_BINDPW") as raised:
            find(site(LDAP_BINDPW="wrong-one"), "u1@example.com")
        assert "wrong-one" not in str(raised.value)
        with pytest.raises(Temporary, match=r"LDAP_BINDPW"):
            log_in(site(LDAP_BINDPW="wrong-one", LDAP_AUTHBIND=1), "u1@example.com", "secret1")

    def test_no_such_base(self, site: Site) -> None:
        for base in (f"ou=none, {BASE}", "o=other", "nonsense"):
            with pytest.raises(Temporary, match=base):
                find(site(LDAP_BASEDN=base), "u1@example.com")

    def test_base_is_elsewhere(self, site: Site) -> None:
        with pytest.raises(Temporary, match="refers to another server"):
            find(site(LDAP_BASEDN=f"cn=elsewhere, {BASE}"), "u1@example.com")

    def test_nobody_listens(self, site: Site, tmp_path: Path) -> None:
        for uri in ("ldap://127.0.0.1:1", "ldap://localhost:1", f"ldapi://{tmp_path}%2Fnone", "ldaps://127.0.0.1:1"):
            with pytest.raises(Temporary, match=r"Connection refused|No such file"):
                find(site(LDAP_URI=uri), "u1@example.com")

    def test_unknown_host(self, site: Site) -> None:
        with pytest.raises(Temporary, match=r"host\.invalid: this host has no address"):
            find(site(LDAP_URI="ldap://host.invalid"), "u1@example.com")

    @pytest.mark.parametrize(("scheme", "tls"), [("ldap", 0), ("ldap", 1), ("ldaps", 0)])
    def test_silent_server_leaves_time_for_the_next(self, site: Site, server: Slapd, scheme: str, tls: int) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            first = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
            never = {"LDAPTLS_REQCERT": "never"}
            began = time.monotonic()
            settings = site(never, LDAP_URI=f"{first} {server.uri}", LDAP_TIMEOUT=1, LDAP_TLS=tls)
            assert find(settings, "u1@example.com").uid == 1001
            assert 0.9 < time.monotonic() - began < 3
            with pytest.raises(Temporary, match=r"no answer within 1 s \(LDAP_TIMEOUT\)"):
                find(site(never, LDAP_URI=first, LDAP_TIMEOUT=1, LDAP_TLS=tls), "u1@example.com")

    @pytest.mark.parametrize(
        "answer",
        [b"\0" * 64, b"220 hello\r\n", b"0\x84\x7f\xff\xff\xffxxxx", b"0\x05\x02\x01\x01a\0", b""],
        ids=range(5),
    )
    def test_server_of_another_kind(self, site: Site, answer: bytes) -> None:
        with answering(answer) as uri, pytest.raises(Temporary, match=uri):
            find(site(LDAP_URI=uri, LDAP_TIMEOUT=1), "u1@example.com")

    def test_server_that_answers_byte_by_byte(self, site: Site) -> None:
        began = time.monotonic()
        with answering(b"0\x82\x10", every=0.1, more=True) as uri, pytest.raises(Temporary, match="no answer within 1"):
            find(site(LDAP_URI=uri, LDAP_TIMEOUT=1), "u1@example.com")
        assert time.monotonic() - began < 2

    def test_answer_without_end(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ldap_transport, "MAX_ANSWER", 10)
        with pytest.raises(Temporary, match="over 10 bytes"):
            find(site(), "u1@example.com")


class TestAll:
    def test_without_passwords(self, site: Site) -> None:
        settings = site(LDAP_CLEARPW="clearPassword", LDAP_ENUMERATE_FILTER="(!(cn=Four))")
        every = list(ldap.accounts(settings))
        found = {account.address: account for account in every}
        assert sorted(account.address for account in every) == [
            "both@example.com",
            "both@example.com",
            "one@example.com",
            "u1@example.com",
            "u2@example.com",
        ]
        assert {(account.password, account.cleartext) for account in found.values()} == {(b"", b"")}
        assert found["one@example.com"].options["mailhost"] == "a.example"

    def test_in_pages(self, site: Site, server: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ldap_session, "PAGE", 1)
        settings = site(LDAP_FILTER="(!(cn=Four))", LDAP_URI=f"ldap://127.0.0.1:1, {server.uri}")
        assert len(list(ldap.accounts(settings))) == 5

    def test_entry_that_cannot_be(self, site: Site) -> None:
        with pytest.raises(Temporary, match="HOMEdirectory of the entry 'uid=u4"):
            list(ldap.accounts(site()))

    def test_server_that_is_down(self, site: Site) -> None:
        with pytest.raises(Temporary, match="Connection refused"):
            list(ldap.accounts(site(LDAP_URI="ldap://127.0.0.1:1")))


class answering:
    """A server that says this, whatever it is asked, and then ends; or goes on, a byte at a time."""

    def __init__(self, answer: bytes, every: float = 0, more: bool = False) -> None:
        self.answer, self.every, self.more = answer, every, more
        self.over = threading.Event()

    def __enter__(self) -> str:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return f"ldap://127.0.0.1:{self.listener.getsockname()[1]}"

    def _serve(self) -> None:
        client, _ = self.listener.accept()
        with client:
            try:
                client.recv(65536)
                client.sendall(self.answer)
                while self.more and not self.over.wait(self.every):
                    client.sendall(b"x")
            except OSError:
                pass

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(10)
        self.listener.close()
