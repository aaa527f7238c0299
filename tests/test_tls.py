"""TLS without sockets, and what the settings make of it: tls.py by itself."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from libssl import TLS12, TLS13, Peer, TlsError
from real.certificates import Authority, Certificate
from support import Site, Wire

from proxyhelper import settings as configuration
from proxyhelper import tls
from proxyhelper.ends import Closed, SocketEnd, TimedOut
from proxyhelper.settings import ConfigurationError, Settings
from proxyhelper.tls import Channel, HandshakeFailed, TlsEnd

pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")

DAY = timedelta(days=1)
VERSIONS = [TLS12, TLS13]
Load = Callable[..., Settings]


@pytest.fixture
def load(certified: Site) -> Load:
    """Settings with these beside those with which TLS is offered."""

    def begin(env: Mapping[str, str] = {}, **values: object) -> Settings:
        certified.set(**values)
        return configuration.load("imap", {"PROXYHELPER_CONFDIR": str(certified.directory), **env})

    return begin


@pytest.fixture
def server(load: Load) -> Callable[..., Channel]:
    return lambda ip="", **values: Channel(tls.server_context(load(**values), ip), server_side=True)


def shake_hands(channel: Channel, client: ssl.SSLObject, sent: ssl.MemoryBIO, arrived: ssl.MemoryBIO) -> None:
    """Until both are done, or one of them raises."""
    done = [False, False]
    said = b""
    while not all(done):
        try:
            client.do_handshake()
            done[0] = True
        except ssl.SSLWantReadError:
            pass
        done[1] = channel.shake_hands(sent.read())
        said = channel.outgoing()
        arrived.write(said)


class Client:
    """A client of Python's in front of a server's Channel; the handshake is done."""

    def __init__(self, channel: Channel, context: ssl.SSLContext, name: str | None = None) -> None:
        self.channel = channel
        self.arrived, self.sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.arrived, self.sent, server_hostname=name)
        shake_hands(channel, self.tls, self.sent, self.arrived)

    def subject(self) -> str:
        """The common name of the server's certificate."""
        return dict(field for (field,) in self.tls.getpeercert()["subject"])["commonName"]

    def says(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            self.tls.write(piece)
        return self.sent.read()

    def hears(self, ciphertext: bytes) -> bytes:
        self.arrived.write(ciphertext)
        return self.tls.read(1 << 20)


def refusal(channel: Channel, context: ssl.SSLContext, name: str | None = None) -> str:
    """Why no TLS could be agreed upon, or nothing."""
    try:
        Client(channel, context, name)
    except (HandshakeFailed, ssl.SSLError) as failure:
        return str(failure)
    return ""


def anyone() -> ssl.SSLContext:
    return ssl._create_unverified_context()


def joined(version: int, front: Certificate, channel: Channel) -> Peer:
    """A client of OpenSSL's in front of `channel`; what it sends is for the test to carry."""
    peer = Peer(Wire(socket.socketpair()[0]), version=version, shake=False)
    said = b""
    while not peer.step(said) or said:
        channel.shake_hands(peer.sealed())
        said = channel.outgoing()
    channel.shake_hands(peer.sealed())
    peer.feed(channel.outgoing())
    return peer


# A channel


@pytest.mark.parametrize("version", VERSIONS)
def test_handshake_and_records_byte_by_byte(server, front, version):
    channel = server()
    peer = Peer(Wire(socket.socketpair()[0]), version=version, shake=False)
    said, done = b"", False
    while not peer.step(said) or not done:
        for byte in peer.sealed():
            done = channel.shake_hands(bytes([byte])) or done
        said = channel.outgoing()
    assert channel.version() == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
    assert channel.cipher()
    got = [channel.decrypt(bytes([byte])) for byte in peer.sealed(b"hello")]
    assert got == [b""] * (len(got) - 1) + [b"hello"]
    assert not channel.ended
    assert channel.failure is None


@pytest.mark.parametrize("version", VERSIONS)
def test_any_number_of_records_at_once(server, front, version):
    channel = server()
    peer = joined(version, front, channel)
    data = os.urandom(300_000)
    ciphertext = peer.sealed(data[:7]) + peer.sealed(data[7:16384]) + peer.sealed(data[16384:])
    assert channel.decrypt(ciphertext[:1000]) + channel.decrypt(ciphertext[1000:]) == data
    back = channel.encrypt(data)
    peer.feed(back)
    peer.decrypt()
    assert bytes(peer.received) == data


@pytest.mark.parametrize("version", VERSIONS)
def test_goodbye_behind_data(server, front, version):
    channel = server()
    peer = joined(version, front, channel)
    assert channel.decrypt(peer.sealed(b"last") + peer.goodbye()) == b"last"
    assert channel.ended
    assert channel.failure is None
    peer.feed(channel.encrypt(b"not yet"))
    peer.decrypt()
    assert bytes(peer.received) == b"not yet"
    assert not peer.closed
    peer.feed(channel.close())
    peer.decrypt()
    assert peer.closed


@pytest.mark.parametrize("version", VERSIONS)
def test_goodbye_of_ours_first(server, front, version):
    """What the peer still says is heard, and its own goodbye is an end, not a failure."""
    channel = server()
    peer = joined(version, front, channel)
    half = peer.sealed(b"under way")
    assert channel.decrypt(half[:-4]) == b""
    goodbye = channel.close()
    assert goodbye
    assert channel.decrypt(half[-4:]) == b"under way"
    assert channel.decrypt(peer.sealed(b"and more")) == b"and more"
    assert not channel.ended
    assert channel.decrypt(peer.sealed(b"last") + peer.goodbye()) == b"last"
    assert (channel.ended, channel.failure) == (True, None)
    peer.feed(goodbye)
    peer.decrypt()
    assert peer.closed


@pytest.mark.parametrize("where", [3, 20, -1])
def test_changed_record_is_a_failure_behind_what_was_good(server, front, where):
    channel = server()
    peer = joined(TLS13, front, channel)
    good, bad = peer.sealed(b"good"), bytearray(peer.sealed(b"bad record"))
    bad[where] ^= 0x40
    assert channel.decrypt(good + bytes(bad) + bytes(1 << 16)) == b"good"
    assert channel.failure is not None
    assert not channel.ended
    assert channel.outgoing()  # the alert
    with pytest.raises(ssl.SSLError):
        channel.encrypt(b"x")
    assert channel.decrypt(b"more") == b""
    channel.close()


def test_alert_of_the_peer_is_a_failure(server, front):
    """A failure of the peer's is no goodbye."""
    channel = server()
    peer = joined(TLS13, front, channel)
    peer.feed(bytes(100))
    with pytest.raises(TlsError):
        peer.decrypt()
    assert channel.decrypt(peer.sealed()) == b""
    assert channel.failure
    assert not channel.ended


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(65535)])
def test_no_hello_at_all(server, garbage):
    with pytest.raises(HandshakeFailed) as failure:
        server().shake_hands(garbage)
    assert str(failure.value).isprintable()
    assert str(failure.value) == str(failure.value).lower() != ""


def test_renegotiation_is_refused(server, front):
    channel = server()
    peer = joined(TLS12, front, channel)
    peer.renegotiate()
    assert channel.decrypt(peer.unsent) == b""
    assert channel.failure is None
    said = channel.outgoing()
    assert said[:1] == b"\x15"  # an alert, and nothing else
    assert len(said) < 50
    peer.feed(said)
    with pytest.raises(TlsError, match="no renegotiation"):
        peer.decrypt()


# An end


@pytest.fixture
def ends(server, front) -> Callable[[], tuple[TlsEnd, Peer, socket.socket]]:
    """Both ends of a connection, behind TLS; what the client says is for the test to send."""

    def begin(version: int = TLS13) -> tuple[TlsEnd, Peer, socket.socket]:
        ours, theirs = socket.socketpair()
        channel = server()
        peer = joined(version, front, channel)
        return TlsEnd(SocketEnd(ours), channel), peer, theirs

    return begin


def soon(seconds: float = 0.3) -> float:
    return time.monotonic() + seconds


def test_peek_and_consume(ends):
    end, peer, theirs = ends()
    theirs.send(peer.sealed(b"one two") + peer.sealed(b" three")[:-1])
    assert end.peek(soon()) == b"one two"
    end.consume(4)
    assert end.peek(soon()) == b"two"
    assert end.rest() == b"two"
    assert end.receive(soon()) == b"two"
    assert end.rest() == b""
    with pytest.raises(TimedOut):
        end.peek(soon())
    with pytest.raises(TimedOut):
        end.peek(soon(-1))


@pytest.mark.parametrize("behind", [b"", b"data"])
def test_end_in_order_and_not(ends, behind):
    end, peer, theirs = ends()
    theirs.send((peer.sealed(behind) if behind else b"") + peer.goodbye())
    if behind:
        assert end.receive(soon()) == behind
    assert end.peek(soon()) == b""
    assert end.peek(soon()) == b""
    end, peer, theirs = ends()
    theirs.send(peer.sealed(behind + b"x") + peer.sealed(b"y")[:3])
    theirs.close()
    assert end.receive(soon()) == behind + b"x"
    with pytest.raises(Closed, match="without a goodbye"):
        end.receive(soon())


def test_failure_comes_behind_what_was_good(ends):
    end, peer, theirs = ends()
    theirs.send(peer.sealed(b"good") + b"garbage" * 10)
    assert end.receive(soon()) == b"good"
    with pytest.raises(Closed, match="wrong version number"):
        end.receive(soon())


def test_what_comes_with_the_end_of_the_handshake(server, front):
    ours, theirs = socket.socketpair()
    end = TlsEnd(SocketEnd(ours), server())
    peer = Peer(Wire(theirs), shake=False)
    peer.step()
    theirs.send(peer.sealed())
    with pytest.raises(TimedOut):
        end.shake_hands(soon())
    assert peer.step(theirs.recv(1 << 16))
    theirs.send(peer.sealed(b"a1 LOGIN") + peer.goodbye())
    end.shake_hands(soon())
    assert end.receive(soon()) == b"a1 LOGIN"
    assert end.receive(soon()) == b""


def test_answers_are_sent_by_who_only_listens(ends):
    """They are not kept until there is something to say: that may be never, and they many."""
    end, peer, theirs = ends(TLS12)
    peer.renegotiate()
    theirs.send(peer.unsent)
    with pytest.raises(TimedOut):
        end.peek(soon())
    assert theirs.recv(100, socket.MSG_DONTWAIT)[:1] == b"\x15"


# Versions and ciphers


@pytest.mark.parametrize(
    ("setting", "lowest"),
    [
        ("TLSv1", "TLSv1"),
        ("TLSv1+", "TLSv1"),
        ("TLSv1.1", "TLSv1_1"),
        ("TLSv1.1++", "TLSv1_1"),
        ("TLSv1.2", "TLSv1_2"),
        ("TLSv1.2+", "TLSv1_2"),
        ("TLSv1.2++", "TLSv1_2"),
        ("tlsv1.3", "TLSv1_3"),
        ("", "TLSv1_2"),
    ],
)
def test_lowest_version(load, setting, lowest):
    context = tls.server_context(load(TLS_PROTOCOL=setting), "")
    assert context.minimum_version == ssl.TLSVersion[lowest]


@pytest.mark.parametrize("setting", ["SSLv3", "TLSv1.4", "TLSv1.20", "TLSv2", "TLS", "TLSv1.", "+", "TLSv1.2 TLSv1.3"])
def test_no_version(load, setting):
    with pytest.raises(ConfigurationError, match="TLS_PROTOCOL") as error:
        tls.server_context(load(TLS_PROTOCOL=setting), "")
    assert error.value.setting == "TLS_PROTOCOL"


@pytest.mark.parametrize(
    ("setting", "ciphers", "newest", "agreed"),
    [
        ("TLSv1", "DEFAULT:@SECLEVEL=0", "TLSv1", True),
        ("TLSv1.1", "DEFAULT:@SECLEVEL=0", "TLSv1", False),
        ("TLSv1.1", "DEFAULT:@SECLEVEL=0", "TLSv1_1", True),
        ("TLSv1.2", "DEFAULT:@SECLEVEL=0", "TLSv1_1", False),
        ("", "", "TLSv1_1", False),
        ("", "", "TLSv1_2", True),
        ("TLSv1.3", "", "TLSv1_2", False),
        ("TLSv1.3", "", "TLSv1_3", True),
    ],
)
def test_versions_that_clients_have(server, setting, ciphers, newest, agreed):
    channel = server(TLS_PROTOCOL=setting, TLS_CIPHER_LIST=ciphers)
    context = anyone()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion[newest]
    assert (refusal(channel, context) == "") is agreed
    if agreed:
        assert channel.version() == newest.replace("_", ".")


ONE_CIPHER = "ECDHE-ECDSA-CHACHA20-POLY1305"


@pytest.mark.parametrize("name", [None, "named.example", "other.example"])
def test_ciphers_whatever_name_is_asked_for(server, front, authority, tmp_path, name):
    file = certificates(tmp_path, front, authority, "named.example")
    context = anyone()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    channel = server(TLS_CERTFILE=file, TLS_CIPHER_LIST=ONE_CIPHER)
    Client(channel, context, name)
    assert channel.cipher() == ONE_CIPHER
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises(HandshakeFailed, match="no shared cipher"):
        Client(server(TLS_CERTFILE=file, TLS_CIPHER_LIST=ONE_CIPHER), context, name)


@pytest.mark.parametrize("name", [None, "named.example"])
@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
def test_no_tickets(server, front, authority, tmp_path, newest, name):
    context = anyone()
    context.maximum_version = ssl.TLSVersion[newest]
    channel = server(TLS_CERTFILE=certificates(tmp_path, front, authority, "named.example"))
    client = Client(channel, context, name)
    assert client.hears(channel.encrypt(b"x")) == b"x"
    assert not client.tls.session.has_ticket


# Certificates


def certificates(directory: Path, default: Certificate, authority: Authority, *names: str) -> Path:
    """A TLS_CERTFILE, with others for names."""
    file = directory / "imapd.pem"
    file.write_text(default.both.read_text())
    for name in names:
        other = authority.directory / f"{name}.both"
        if not other.exists():
            authority.issue(name, f"DNS:{name}")
        (directory / f"imapd.pem.{name}").write_text(other.read_text())
    return file


@pytest.mark.parametrize(
    ("present", "key", "suffix", "expected"),
    [
        ([], "", "", ("c", "c")),
        ([], "", "name", ("c", "c")),
        (["c.name"], "", "name", ("c.name", "c.name")),
        (["c.name"], "", "", ("c", "c")),
        (["c.name"], "", "other", ("c", "c")),
        (["c.name"], "k", "name", ("c.name", "k")),
        (["c.name", "k.name"], "k", "name", ("c.name", "k.name")),
        (["k.name"], "k", "name", ("c", "k.name")),
        (["c.192.0.2.1"], "", "192.0.2.1", ("c.192.0.2.1",) * 2),
        (["c.2001:db8::1"], "", "2001:db8::1", ("c.2001:db8::1",) * 2),
    ],
)
def test_certificate_for(load, tmp_path, present, key, suffix, expected):
    for name in ["c", "k", *present]:
        (tmp_path / name).touch()
    chosen = load(TLS_CERTFILE=tmp_path / "c", TLS_PRIVATE_KEYFILE=tmp_path / key if key else "")
    assert tls.certificate_for(chosen, suffix) == tuple(str(tmp_path / name) for name in expected)


@pytest.mark.parametrize(
    ("asked", "presented"),
    [
        (None, "front"),
        ("mail.example", "mail.example"),
        ("MAIL.Example", "mail.example"),
        ("unknown.example", "front"),
        ("broken.example", "front"),
        ("x.example", "front"),
        ("..", "front"),
        ("../imapd.pem.mail.example", "front"),
        (".mail.example", "front"),
        ("mail.example/", "front"),
        ("mail.example\n", "front"),
    ],
)
@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
def test_name_that_a_client_asks_for(server, front, authority, tmp_path, asked, presented, newest):
    file = certificates(tmp_path, front, authority, "mail.example")
    (tmp_path / "imapd.pem.broken.example").write_text("garbage")
    (tmp_path / "imapd.pem.x.example").mkdir()
    channel = server(TLS_CERTFILE=file)
    context = authority.trusting()
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion[newest]
    try:
        client = Client(channel, context, asked)
    except ValueError:
        return  # Python's client does not ask for this
    assert client.subject() == presented


def test_name_before_address(server, front, authority, tmp_path):
    file = certificates(tmp_path, front, authority, "mail.example", "192.0.2.1")
    context = authority.trusting()
    context.check_hostname = False
    for name, presented in (("mail.example", "mail.example"), (None, "192.0.2.1"), ("unknown.example", "192.0.2.1")):
        assert Client(server("192.0.2.1", TLS_CERTFILE=file), context, name).subject() == presented
    assert Client(server("192.0.2.2", TLS_CERTFILE=file), context, None).subject() == "front"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("mail.example", True),
        ("xn--bcher-kva.example", True),
        ("1.example", True),
        ("192.0.2.1", True),
        ("", False),
        (".", False),
        ("..", False),
        (".mail", False),
        ("-mail", False),
        ("mail/..", False),
        ("mail\0", False),
        ("mail\n", False),
        ("bücher.example", False),
        ("²", False),
        ("a b", False),
        ("::1", False),
        ("under_score", False),
    ],
)
def test_name_that_may_be_part_of_a_file_s(name, is_one):
    assert tls.is_name(name) is is_one


def test_name_that_is_no_text(helper, front, authority):
    """Nothing is said of it but that the handshake failed."""
    session = helper(env={"PROXY_TLS_WRAP": "1", "TLS_CERTFILE": str(front.both)})
    hello = ssl.MemoryBIO()
    client = anyone().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="aaaa.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    session.send(hello.read().replace(b"aaaa", b"\xff\xfe\xfd\xfc"))
    line = session.log.find("DISCONNECTED")
    assert "TLS handshake failed" in line
    assert all(said.startswith(("INFO: ", "DEBUG: ")) for said in session.log.text.splitlines()), session.log.text


@pytest.mark.parametrize("what", ["missing", "garbage", "no key", "another's key", "a directory"])
def test_certificate_that_cannot_be_used(load, front, authority, tmp_path, what):
    file, key = tmp_path / "imapd.pem", ""
    if what == "garbage":
        file.write_bytes(os.urandom(1000))
    elif what == "no key":
        file.write_text(front.certificate.read_text())
    elif what == "another's key":
        file.write_text(front.certificate.read_text())
        key = authority.issue("somebody", "DNS:somebody.example").key
    elif what == "a directory":
        file.mkdir()
    with pytest.raises(ConfigurationError) as error:
        tls.server_context(load(TLS_CERTFILE=file, TLS_PRIVATE_KEYFILE=key), "")
    assert error.value.setting == "TLS_CERTFILE"
    assert str(file) in str(error.value)


# Certificates of clients


@pytest.mark.parametrize(
    ("verify", "shown", "agreed", "subject"),
    [
        ("NONE", None, True, ""),
        ("NONE", "good", True, ""),
        ("PEER", None, True, ""),
        ("PEER", "good", True, "u1@example.com"),
        ("PEER", "foreign", False, ""),
        ("PEER", "expired", False, ""),
        ("REQUIREPEER", None, False, ""),
        ("REQUIREPEER", "good", True, "u1@example.com"),
        ("REQUIREPEER", "foreign", False, ""),
        ("REQUIREPEER", "expired", False, ""),
    ],
)
@pytest.mark.parametrize("name", [None, "mail.example"])
@pytest.mark.parametrize("newest", ["TLSv1_2", "TLSv1_3"])
def test_certificates_of_clients(
    server, front, authority, client_certificates, tmp_path, verify, shown, agreed, subject, name, newest
):
    """What is asked of them does not hang on the name that they ask for."""
    file = certificates(tmp_path, front, authority, "mail.example")
    channel = server(TLS_CERTFILE=file, TLS_VERIFYPEER=verify, TLS_TRUSTCERTS=authority.ca)
    context = anyone()
    context.maximum_version = ssl.TLSVersion[newest]
    if shown:
        context.load_cert_chain(client_certificates[shown].both)
    said = refusal(channel, context, name)
    if agreed:
        assert said == ""
        assert tls.identity(channel.peer_subject(), "emailAddress") == subject
    else:
        assert ("certificate was refused: " if shown else "did not return a certificate") in said


@pytest.fixture(scope="session")
def client_certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    elsewhere = Authority(tmp_path_factory.mktemp("foreign"))
    subject = "/CN=u1/emailAddress=u1@example.com"
    return {
        "good": authority.issue("u1", subject=subject),
        "foreign": elsewhere.issue("u1", subject=subject),
        "expired": authority.issue("u1-expired", subject=subject, start=-2 * DAY, end=-DAY),
    }


def test_trusted_directory(server, authority, client_certificates, tmp_path):
    """Hashed as by `openssl rehash`."""
    place = tmp_path / "trusted"
    place.mkdir()
    hashed = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", authority.ca], check=True, capture_output=True, text=True
    )
    (place / f"{hashed.stdout.strip()}.0").write_text(authority.ca.read_text())
    context = anyone()
    context.load_cert_chain(client_certificates["good"].both)
    channel = server(TLS_VERIFYPEER="REQUIREPEER", TLS_TRUSTCERTS=place)
    Client(channel, context)
    assert channel.peer_subject() == [("commonName", "u1"), ("emailAddress", "u1@example.com")]


@pytest.mark.parametrize("trusted", ["", "/none.pem", "/dev/null"])
def test_nobody_to_trust(load, trusted):
    with pytest.raises(ConfigurationError, match="TLS_TRUSTCERTS"):
        tls.server_context(load(TLS_VERIFYPEER="PEER", TLS_TRUSTCERTS=trusted), "")


SUBJECT = [("commonName", "One"), ("emailAddress", "one@example.com"), ("organizationalUnitName", "a")]


@pytest.mark.parametrize(
    ("subject", "field", "expected"),
    [
        (SUBJECT, "emailaddress", "one@example.com"),
        (SUBJECT, "emailAddress", "one@example.com"),
        (SUBJECT, "CN", "One"),
        (SUBJECT, "commonname", "One"),
        (SUBJECT, "ou", "a"),
        (SUBJECT, "uid", ""),
        (SUBJECT, "", ""),
        ([], "cn", ""),
        ([*SUBJECT, ("commonName", "Two")], "cn", ""),
        ([*SUBJECT, ("commonName", "Two")], "emailaddress", "one@example.com"),
        ([("userId", "u")], "uid", "u"),
    ],
)
def test_identity(subject, field, expected):
    assert tls.identity(subject, field) == expected


# Backends


@pytest.fixture(scope="session")
def backend_certificates(authority: Authority) -> dict[str, Certificate]:
    good = ("DNS:backend.example", "IP:192.0.2.7", "IP:2001:db8::7")
    return {
        "good": authority.issue("backend", *good),
        "wildcard": authority.issue("wildcard", "DNS:*.mail.example"),
        "expired": authority.issue("late", *good, start=-2 * DAY, end=-DAY),
        "not yet": authority.issue("early", *good, start=DAY),
        "self-signed": authority.self_signed("self", *good),
    }


@pytest.mark.parametrize(
    ("shown", "name", "said"),
    [
        ("good", "backend.example", ""),
        ("good", "BACKEND.example", ""),
        ("good", "192.0.2.7", ""),
        ("good", "2001:db8::7", ""),
        ("good", "2001:0db8:0::7", ""),
        ("good", "other.example", "[Hh]ostname mismatch"),
        ("good", "192.0.2.8", "IP address mismatch"),
        ("good", "backend.example.com", "[Hh]ostname mismatch"),
        ("wildcard", "b1.mail.example", ""),
        ("wildcard", "a.b1.mail.example", "[Hh]ostname mismatch"),
        ("wildcard", "mail.example", "[Hh]ostname mismatch"),
        ("expired", "backend.example", "certificate has expired"),
        ("not yet", "backend.example", "certificate is not yet valid"),
        ("self-signed", "backend.example", "self.signed certificate"),
    ],
)
def test_certificate_of_a_backend(load, authority, backend_certificates, shown, name, said):
    channel = Channel(tls.backend_context(load(PROXY_CAFILE=authority.ca)), False, name)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(backend_certificates[shown].both)
    arrived, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    backend = serving.wrap_bio(arrived, sent, server_side=True)
    channel.shake_hands()
    arrived.write(channel.outgoing())
    with pytest.raises(ssl.SSLWantReadError):
        backend.do_handshake()
    if not said:
        assert channel.shake_hands(sent.read())
        return
    with pytest.raises(HandshakeFailed, match=f"the certificate was refused: .*{said}"):
        channel.shake_hands(sent.read())
    assert channel.outgoing()  # the alert, for the backend's log


def test_backend_that_nobody_trusts(load, backend_certificates):
    """The system's store does not know the tests' authority."""
    context = tls.backend_context(load())
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_backend_of_the_past(load, authority):
    context = tls.backend_context(load(PROXY_CAFILE=authority.ca, TLS_PROTOCOL="TLSv1", TLS_CIPHER_LIST="ALL"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("trusted", ["/none.pem", "/dev/null"])
def test_no_authority_for_backends(load, trusted):
    with pytest.raises(ConfigurationError, match="PROXY_CAFILE"):
        tls.backend_context(load(PROXY_CAFILE=trusted))
