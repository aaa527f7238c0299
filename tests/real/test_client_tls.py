"""TLS towards clients that nobody here wrote: STARTTLS and from the first byte, mailboxes here and elsewhere."""

from __future__ import annotations

import imaplib
import os
import poplib
import re
import shutil
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support import open_directory, wait_until

from . import clients
from .activators import ACTIVATORS, Listener, couriertcpd
from .certificates import Authority
from .clients import Imap, check_mailbox, imap_message, log_out, port_of
from .conftest import ACCOUNTS, FAR, HOSTNAME, NEAR, SETTINGS
from .courier import configure
from .mail import MAIL_UID, MESSAGES, Account, fill_maildir, home_of, message
from .test_clients import USER, check_files, write_settings
from .test_processes import children, is_gone, proxy_user, status
from .tls import (
    EXTERNAL,
    LOGGED_IN,
    TLS_PORTS,
    WAYS,
    Front,
    client,
    connect,
    handshake,
    logged_in,
    s_client,
    shake_hands,
    tls_front,
)
from .world import World, program, run

FRONT = "127.0.0.1"
ACTIVATED = "127.0.0.5"
STRICT = "127.0.0.6"
"""TLS 1.2 with one cipher, and no login without TLS."""
NEWEST = "127.0.0.7"
"""TLS 1.3 only, and clients must have a certificate."""
EXTERNAL_FRONT = "127.0.0.8"
"""A client's certificate says who it is; this address has a certificate of its own."""
SECURED = "127.0.0.10"
OTHER_NAME = "other.example.com"
CIPHER, OTHER_CIPHER = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"
OLD = ("-cipher", "DEFAULT@SECLEVEL=0")
TLS_1_1, TLS_1_2, TLS_1_3 = ("-tls1_1", *OLD), ("-tls1_2",), ("-tls1_3",)


@pytest.fixture(scope="module")
def configuration(authority: Authority) -> Iterator[Path]:
    """The settings, with the certificate and its key in files of their own for the names, in one for all others."""
    addresses = [f"IP:{address}" for address in (FRONT, ACTIVATED, STRICT, NEWEST)]
    with open_directory() as directory:
        both = directory / "mail.pem"
        shutil.copy(authority.issue("front", f"DNS:{HOSTNAME}", *addresses).both, both)
        shutil.copy(authority.issue("of-address", f"IP:{EXTERNAL_FRONT}").both, f"{both}.{EXTERNAL_FRONT}")
        shutil.copy(authority.issue("other", f"DNS:{OTHER_NAME}").both, f"{both}.{OTHER_NAME}")
        fill_maildir(home_of(directory / "homes", NEAR) / "Maildir")
        tls = {"TLS_CERTFILE": str(both), "IMAPDSTARTTLS": "YES", "POP3_STARTTLS": "YES"}
        settings = {"PROXY_HOSTNAME": HOSTNAME, **SETTINGS, **tls}
        yield configure(directory / "etc", ACCOUNTS, directory / "homes", **settings)


@contextmanager
def front_on(address: str, configuration: Path, **settings: str) -> Iterator[Front]:
    """The helper, started by couriertcpd, with these settings in its environment."""
    with open_directory() as directory:
        environment = {"PROXYHELPER_CONFDIR": str(configuration), **settings}
        with tls_front(couriertcpd, directory, address, environment) as started:
            yield started
            for of_protocol in started.values():
                for listener in of_protocol.values():
                    assert not listener.log.matching("Traceback|internal error|Secret")


@pytest.fixture(scope="module")
def front(configuration: Path, backends: None) -> Iterator[Front]:
    with front_on(FRONT, configuration) as started:
        yield started


@pytest.fixture(scope="module", params=["couriertcpd", "xinetd", "systemd"])
def activated(request: pytest.FixtureRequest, configuration: Path, backends: None) -> Iterator[Front]:
    environment = {"PROXYHELPER_CONFDIR": str(configuration)}
    activator = ACTIVATORS[request.param]
    with open_directory() as directory, tls_front(activator, directory, ACTIVATED, environment) as started:
        yield started


@pytest.fixture(scope="module")
def strict(configuration: Path) -> Iterator[Front]:
    required = {"IMAP_TLS_REQUIRED": "1", "POP3_TLS_REQUIRED": "1"}
    with front_on(STRICT, configuration, TLS_CIPHER_LIST=CIPHER, TLS_PROTOCOL="TLSv1.2++", **required) as started:
        yield started


@pytest.fixture(scope="module")
def newest(configuration: Path, authority: Authority) -> Iterator[Front]:
    wanted = {"TLS_VERIFYPEER": "REQUIREPEER", "TLS_TRUSTCERTS": str(authority.ca)}
    with front_on(NEWEST, configuration, TLS_PROTOCOL="TLSv1.3", **wanted) as started:
        yield started


@pytest.fixture(scope="module")
def external(configuration: Path, authority: Authority, backends: None) -> Iterator[Front]:
    wanted = {"TLS_VERIFYPEER": "PEER", "TLS_TRUSTCERTS": str(authority.ca), "TLS_EXTERNAL": "emailaddress"}
    with front_on(EXTERNAL_FRONT, configuration, **wanted) as started:
        yield started


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[FAR, NEAR], ids=lambda account: account.name)
def account(request: pytest.FixtureRequest) -> Account:
    assert isinstance(request.param, Account)
    return request.param


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return authority.trusting()


# Sessions


def test_mailbox(activated: Front, way: str, protocol: str, account: Account, context: ssl.SSLContext) -> None:
    """Every message byte for byte; the log says that it went over TLS, and counts what was said."""
    listener = activated[way][protocol]
    mail = logged_in(way, ACTIVATED, protocol, account, context)
    port = port_of(mail)
    check_mailbox(mail)
    flag = {"imap": "starttls=1", "pop3": "stls=1"}[protocol]
    if account is FAR:
        who = rf"user={FAR.name}, ip=\[\S*\], port=\[{port}\], session=[0-9a-f]{{16}}, protocol={protocol.upper()}"
        line = listener.log.wait_for(f"LOGIN, {who}")
        assert f", {flag}" in line
        assert ", tls=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384" in line
        assert re.search(r"rcvd=\d{2,3}, sent=86\d{4}, time=\d+", listener.log.wait_for(f"LOGOUT, {who}"))
    else:
        listener.log.wait_for(rf"LOG(IN|OUT), user={NEAR.name}, .*port=\[{port}\].*{flag}")


CURL = {"plain": [], "AUTH=PLAIN": ["--login-options", "AUTH=PLAIN", "--sasl-ir"]}


@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_curl(
    area: Path, front: Front, way: str, protocol: str, account: Account, options: list[str], authority: Authority
) -> None:
    place = {"imap": "INBOX;MAILINDEX={}", "pop3": "{}"}[protocol]
    scheme = protocol if way == "starttls" else f"{protocol}s"
    targets = []
    for number in range(1, len(MESSAGES) + 1):
        targets += ["-o", str(area / str(number)), f"{scheme}://{HOSTNAME}/{place.format(number)}"]
    tls = ["--ssl-reqd", "--cacert", str(authority.ca), "--resolve", f"{HOSTNAME}:{WAYS[way][protocol]}:{FRONT}"]
    run([program("curl"), "-sS", *tls, *options, "--user", f"{account.name}:{account.password}", *targets])
    assert tuple((area / str(number)).read_bytes() for number in range(1, len(MESSAGES) + 1)) == MESSAGES


MBSYNC = """\
IMAPAccount account
Host {address}
User {name}
Pass "{password}"
SSLType {kind}
SystemCertificates no
CertificateFile {ca}

IMAPStore far
Account account

MaildirStore near
Inbox {directory}/mail
Path {directory}/

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync Pull
SyncState {directory}/
"""


def test_mbsync(area: Path, front: Front, way: str, account: Account, authority: Authority) -> None:
    os.chown(area, USER, USER)
    (area / "hosts").write_text(f"{FRONT} {HOSTNAME}\n")
    password = account.password.replace("\\", "\\\\").replace('"', '\\"')
    kind = {"starttls": "STARTTLS", "wrapped": "IMAPS"}[way]
    settings = {"address": HOSTNAME, "name": account.name, "password": password, "kind": kind, "ca": authority.ca}
    file = write_settings(area / "mbsyncrc", MBSYNC.format(directory=area, **settings))
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    world = World(files={"/etc/hosts": area / "hosts"})
    run([*user, program("mbsync"), "-c", file, "-a"], world=world, environment={"HOME": str(area)})
    check_files(area / "mail/cur", b"X-TUID")


def test_upload(front: Front, way: str, account: Account, context: ssl.SSLContext) -> None:
    """The other way: what imaplib appends is what it then fetches, every byte of two megabytes."""
    uploaded = message("uploaded", b"".join(b"%07d up up up up\n" % n for n in range(80_000)))
    mail = logged_in(way, FRONT, "imap", account, context)
    assert isinstance(mail, Imap)
    mail.create("INBOX.Uploaded")
    assert mail.append("INBOX.Uploaded", "", "", uploaded)[0] == "OK"
    _, (count,) = mail.select("INBOX.Uploaded")
    assert imap_message(mail, int(count or 0)) == uploaded
    log_out(mail)


PIPELINED = {
    "imap": "a1 LOGIN {0.name} {1}\r\na2 SELECT INBOX\r\na3 FETCH 1:6 BODY.PEEK[]\r\na4 LOGOUT\r\n",
    "pop3": "USER {0.name}\r\nPASS {0.password}\r\nRETR 1\r\nRETR 6\r\nQUIT\r\n",
}


def test_commands_sent_with_the_login(front: Front, protocol: str, account: Account, context: ssl.SSLContext) -> None:
    """They are in the same TLS record, and belong to the server behind."""
    password = '"' + account.password.replace("\\", "\\\\").replace('"', '\\"') + '"'
    with connect(FRONT, protocol, context) as mail, mail.makefile("rb") as lines:
        mail.sendall(PIPELINED[protocol].format(account, password).encode())
        said = lines.read()
    assert said.count(MESSAGES[-1]) == 1
    assert re.search(rb"\r\na4 OK [^\r]*\r\n$|\r\n\+OK[^\r]*\r\n$", said)


# Versions, ciphers, certificates


def agreed(said: str) -> str:
    """The version and cipher that s_client tells of, "" if there was no session."""
    found = re.search(r"New, (TLSv[\d.]+), Cipher is ([\w-]+)", said)
    return f"{found[1]} {found[2]}" if found else ""


VERSIONS = {
    (FRONT, TLS_1_1): "",
    (FRONT, TLS_1_2): "TLSv1.2 ",
    (FRONT, TLS_1_3): "TLSv1.3 ",
    (NEWEST, TLS_1_2): "",
    (NEWEST, TLS_1_3): "TLSv1.3 ",
    (STRICT, (*TLS_1_2, "-cipher", CIPHER)): f"TLSv1.2 {CIPHER}",
    (STRICT, (*TLS_1_2, "-cipher", OTHER_CIPHER)): "",
    (STRICT, TLS_1_3): "TLSv1.3 ",
}


@pytest.mark.usefixtures("front", "strict", "newest")
@pytest.mark.parametrize(("address", "options"), VERSIONS, ids=lambda value: str(value))
def test_versions_and_ciphers(address: str, options: tuple[str, ...], way: str, protocol: str) -> None:
    said = handshake(way, address, protocol, *options)
    expected = VERSIONS[address, options]
    if expected:
        assert agreed(said).startswith(expected)
    else:
        assert re.search("alert (protocol version|handshake failure)", said)
        assert not agreed(said)


@pytest.mark.parametrize("options", [TLS_1_2, TLS_1_3], ids=lambda options: str(options[0]))
def test_no_tickets(front: Front, way: str, protocol: str, options: tuple[str, ...]) -> None:
    """No other process could use them."""
    said = handshake(way, FRONT, protocol, *options)
    assert agreed(said)
    assert not re.search("(?i)session ticket", said)


def test_renegotiation_is_refused(front: Front, way: str, protocol: str, context: ssl.SSLContext) -> None:
    """And the helper goes on to serve others."""
    with s_client(way, FRONT, protocol, *TLS_1_2) as mail:
        mail.send({"imap": b"a1 NOOP\r\n", "pop3": b"CAPA\r\n"}[protocol])
        mail.until({"imap": b"a1 OK", "pop3": b"."}[protocol])
        mail.send(b"R\n")
        assert b"no renegotiation" in mail.rest()
    check_mailbox(logged_in(way, FRONT, protocol, FAR, context))


@pytest.mark.parametrize("account", [FAR, NEAR], ids=lambda account: account.name)
def test_renegotiation_is_refused_behind_the_login(front: Front, account: Account) -> None:
    with s_client("wrapped", FRONT, "pop3", *TLS_1_2) as mail:
        mail.send(f"USER {account.name}\r\n".encode())
        mail.until(b"+OK ")
        mail.send(f"PASS {account.password}\r\n".encode())
        mail.until(b"+OK logged in" if account is NEAR else b"+OK Logged in")
        mail.send(b"R\n")
        assert b"no renegotiation" in mail.rest()


SUBJECTS = {
    (FRONT, "-noservername"): "front",
    (FRONT, f"-servername={HOSTNAME}"): "front",
    (FRONT, f"-servername={OTHER_NAME}"): "other",
    (FRONT, f"-servername={OTHER_NAME.upper()}"): "other",
    (FRONT, "-servername=unknown.example.com"): "front",
    (FRONT, "-servername=../mail.pem"): "front",
    (EXTERNAL_FRONT, "-noservername"): "of-address",
    (EXTERNAL_FRONT, f"-servername={OTHER_NAME}"): "other",
}


@pytest.mark.usefixtures("front", "external")
@pytest.mark.parametrize(("address", "option"), SUBJECTS)
def test_certificates_by_name_and_address(
    address: str, option: str, way: str, protocol: str, authority: Authority
) -> None:
    trust = ("-CAfile", str(authority.ca), "-verify_return_error")
    said = handshake(way, address, protocol, *trust, *option.split("="))
    assert f"subject=CN = {SUBJECTS[address, option]}\n" in said
    assert "Verification: OK" in said


# Clients with certificates


@pytest.fixture(scope="module")
def identity(authority: Authority) -> tuple[str, ...]:
    """Options of s_client: the certificate of NEAR."""
    mine = authority.issue("near", subject=f"/CN=someone/emailAddress={NEAR.name}")
    return ("-cert", str(mine.certificate), "-key", str(mine.key))


def test_external(external: Front, way: str, protocol: str, identity: tuple[str, ...]) -> None:
    said = handshake(way, EXTERNAL_FRONT, protocol, *identity, lines=EXTERNAL[protocol])
    assert re.search(LOGGED_IN[protocol], said)
    external[way][protocol].log.wait_for(f"LOGIN, user={NEAR.name}, ")


OFFERED = {"imap": "a0 CAPABILITY\r\n", "pop3": "CAPA\r\n"}


@pytest.mark.parametrize("kind", ["none", "without the field"])
def test_external_without_identity(external: Front, way: str, protocol: str, authority: Authority, kind: str) -> None:
    """It is not offered, and refused."""
    other = authority.issue("nameless")
    options = () if kind == "none" else ("-cert", str(other.certificate), "-key", str(other.key))
    said = handshake(way, EXTERNAL_FRONT, protocol, *options, lines=OFFERED[protocol] + EXTERNAL[protocol])
    assert "PLAIN" in said
    assert "EXTERNAL" not in said.replace("AUTHENTICATE EXTERNAL", "")
    assert re.search({"imap": r"\na1 (NO|BAD) ", "pop3": r"\n-ERR "}[protocol], said)


def test_external_for_a_mailbox_elsewhere(external: Front, protocol: str, authority: Authority) -> None:
    """There is no password to send: refused, and not as a wrong one."""
    far = authority.issue("far", subject=f"/CN=someone/emailAddress={FAR.name}")
    options = ("-cert", str(far.certificate), "-key", str(far.key))
    said = handshake("wrapped", EXTERNAL_FRONT, protocol, *options, lines=EXTERNAL[protocol])
    assert re.search({"imap": r"\na1 NO \[(?!AUTH)", "pop3": r"\n-ERR \[(?!AUTH)"}[protocol], said)
    external["wrapped"][protocol].log.wait_for(f"LOGIN (DEFERRED|REFUSED), user={FAR.name}, .*password")


def test_strangers_certificate(external: Front, way: str, protocol: str, authority: Authority) -> None:
    """One that nobody has signed proves nothing: the connection fails, and the log says why."""
    forged = authority.self_signed("forged", f"email:{NEAR.name}")
    options = ("-cert", str(forged.certificate), "-key", str(forged.key))
    said = handshake(way, EXTERNAL_FRONT, protocol, *options, lines=EXTERNAL[protocol])
    assert not re.search(LOGGED_IN[protocol], said)
    external[way][protocol].log.wait_for("self-signed certificate")


def test_certificate_is_required(newest: Front, way: str, protocol: str, identity: tuple[str, ...]) -> None:
    served = {"imap": "\na0 OK ", "pop3": "\nUIDL"}[protocol]
    assert served in handshake(way, NEWEST, protocol, *identity, lines=OFFERED[protocol])
    assert served not in handshake(way, NEWEST, protocol, lines=OFFERED[protocol])
    newest[way][protocol].log.wait_for("peer did not return a certificate")


# In clear, before TLS


def test_login_in_clear_is_refused(strict: Front, protocol: str, context: ssl.SSLContext) -> None:
    """Where TLS is required nobody is invited to send a password, and it is not used if sent."""
    lines = {
        "imap": f"a0 CAPABILITY\r\na1 LOGIN {NEAR.name} {NEAR.password}\r\na2 LOGOUT\r\n",
        "pop3": f"CAPA\r\nUSER {NEAR.name}\r\nPASS {NEAR.password}\r\nQUIT\r\n",
    }[protocol]
    with clients.connect(STRICT, protocol) as clear, clear.makefile("rb") as reply:
        clear.sendall(lines.encode())
        said = reply.read()
    offers = {"imap": b"LOGINDISABLED", "pop3": b"STLS"}[protocol]
    assert offers in said
    assert not re.search(rb"AUTH=|\r\n(SASL|USER)\b", said)
    assert re.search({"imap": rb"\r\na1 NO \[PRIVACYREQUIRED\]", "pop3": rb"\r\n-ERR "}[protocol], said)
    behind = client("starttls", STRICT, protocol, context)
    if isinstance(behind, Imap):
        assert "LOGINDISABLED" not in behind.capabilities
        assert "STARTTLS" not in behind.capabilities
        assert "AUTH=PLAIN" in behind.capabilities
    else:
        assert not {"STLS"} & set(behind.capa())
        assert {"USER", "SASL"} <= set(behind.capa())
    log_out(behind)
    check_mailbox(logged_in("starttls", STRICT, protocol, NEAR, context))


STARTTLS = {"imap": b"a1 STARTTLS\r\n", "pop3": b"STLS\r\n"}
BEHIND = {
    "imap": f"a2 LOGIN {NEAR.name} {NEAR.password}\r\n".encode(),
    "pop3": f"USER {NEAR.name}\r\nPASS {NEAR.password}\r\n".encode(),
}


@pytest.mark.parametrize("together", [True, False])
def test_commands_behind_starttls_are_thrown_away(front: Front, protocol: str, together: bool) -> None:
    """Whoever put them there in clear must not be heard as if they had come over TLS."""
    listener = front["starttls"][protocol]
    with clients.connect(FRONT, protocol) as clear, clear.makefile("rb") as lines:
        port = clear.getsockname()[1]
        lines.readline()
        clear.sendall(STARTTLS[protocol] + (BEHIND[protocol] if together else b""))
        assert together or re.match(rb"a1 OK|\+OK", lines.readline())
        with suppress(ConnectionError):
            clear.sendall(BEHIND[protocol])
            said = lines.read()
            assert b"a2 " not in said
            assert said.count(b"+OK") <= 1
    listener.log.wait_for(rf"DISCONNECTED.*port=\[{port}\]|port=\[{port}\].*(TLS|clear)")
    assert not listener.log.matching(rf"LOGIN, .*port=\[{port}\]")


GARBAGE = {
    "in clear": b"a1 LOGIN near@example.com near-Secret\r\n",
    "another protocol": b"GET / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n",
    "a spoiled record": bytes.fromhex("16030100f1010000ed0303") + bytes(300),
    "nothing": b"",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_no_tls_where_it_begins_at_once(front: Front, protocol: str, garbage: str) -> None:
    with socket.create_connection((FRONT, TLS_PORTS[protocol]), 10) as clear, clear.makefile("rb") as lines:
        port = clear.getsockname()[1]
        clear.sendall(GARBAGE[garbage])
        clear.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            said = lines.read()
            assert not re.search(rb"[\r\n]", said), "an alert at most"
    front["wrapped"][protocol].log.wait_for(rf"port=\[{port}\].*TLS")


# Processes


def only_child(pid: int) -> int:
    wait_until(lambda: len(children(pid)) == 1, "there is not just one process")
    return children(pid)[0]


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(assignment.split("=", 1) for assignment in text.split("\0") if assignment)


def check_user(pid: int, uid: int) -> None:
    who = status(pid)
    assert set(who["Uid"]) == {str(uid)}
    assert "0" not in who["Gid"] + who["Groups"]
    assert {int(who[kind][0], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}


def vanish(connection: socket.socket) -> None:
    """As a host that loses its power, but that it resets the connection once it is back."""
    plain = socket.socket(fileno=os.dup(connection.fileno()))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.detach() if not isinstance(connection, ssl.SSLSocket) else os.close(connection.detach())
    plain.close()


ENDS = {"logs out": log_out, "vanishes": lambda mail: vanish(mail.sock)}


@pytest.mark.parametrize("end", ENDS)
def test_local_server_behind_tls(activated: Front, way: str, protocol: str, context: ssl.SSLContext, end: str) -> None:
    """The TLS process stays the activator's child and is PROXY_USER's, the server is its child, and both go."""
    listener = activated[way][protocol]
    mail = logged_in(way, ACTIVATED, protocol, NEAR, context)
    helper = only_child(listener.pid)
    server = only_child(helper)
    check_user(helper, proxy_user().pw_uid)
    check_user(server, MAIL_UID)
    told = environment_of(server)
    upper = protocol.upper()
    assert (told[f"{upper}_TLS"], told[f"{upper}_STARTTLS"], told[f"{upper}_TLS_REQUIRED"]) == ("1", "NO", "0")
    assert told["TCPREMOTEPORT"] == str(port_of(mail))
    assert "PROXY_TLS_WRAP" not in told
    assert "Secret" not in str(told)
    assert sorted(entry.name for entry in Path(f"/proc/{server}/fd").iterdir())[:3] == ["0", "1", "2"]
    ENDS[end](mail)
    wait_until(lambda: is_gone(helper) and is_gone(server), "a process stays")


def test_local_server_that_dies(front: Front, protocol: str, context: ssl.SSLContext) -> None:
    """Its client hears of it."""
    mail = logged_in("wrapped", FRONT, protocol, NEAR, context)
    helper = only_child(front["wrapped"][protocol].pid)
    os.kill(only_child(helper), signal.SIGKILL)
    with pytest.raises((imaplib.IMAP4.abort, poplib.error_proto, OSError, EOFError)):
        mail.noop()
    vanish(mail.sock)
    wait_until(lambda: is_gone(helper), "the helper stays")


@pytest.mark.parametrize("account", [FAR, NEAR], ids=lambda account: account.name)
def test_client_that_vanishes_mid_record(
    front: Front, way: str, protocol: str, account: Account, context: ssl.SSLContext
) -> None:
    listener = front[way][protocol]
    mail = logged_in(way, FRONT, protocol, account, context)
    helper = only_child(listener.pid)
    server = children(helper)
    with socket.socket(fileno=os.dup(mail.sock.fileno())) as plain:
        plain.sendall(b"\x17\x03\x03\x10\x00half of a record")
    vanish(mail.sock)
    wait_until(lambda: all(map(is_gone, [helper, *server])), "a process stays")


def test_half_closed(front: Front, account: Account, context: ssl.SSLContext) -> None:
    """A client that says close_notify behind its last command still hears all of the answer."""
    commands = PIPELINED["pop3"].format(account, "").partition("QUIT")[0]
    said = bytearray()
    ended = False
    with socket.create_connection((FRONT, TLS_PORTS["pop3"]), 10) as connection:
        tls, incoming, outgoing = shake_hands(connection, context, FRONT)
        tls.write(commands.encode())
        with suppress(ssl.SSLWantReadError):
            tls.unwrap()
        connection.sendall(outgoing.read())
        while data := connection.recv(65536):
            incoming.write(data)
            try:
                while True:
                    said += tls.read(65536)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                ended = True
    assert ended, "with a close_notify of its own"
    assert bytes(said).count(MESSAGES[-1]) == 1


# Patience costs nothing


def seconds_used(pid: int) -> float:
    """Of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stalled(listener: Listener, sent: bytes, replies: int) -> socket.socket:
    """A client that says so much, hears so many lines, and then is silent."""
    connection = socket.create_connection((listener.address, listener.port), 10)
    connection.sendall(sent)
    with connection.makefile("rb") as lines:
        for _ in range(replies):
            lines.readline()
    return connection


def unread(account: Account, context: ssl.SSLContext) -> socket.socket:
    """A client that asks for more than all buffers hold, and does not read it."""
    mail = logged_in("wrapped", FRONT, "imap", account, context)
    mail.sock.sendall(b"b1 SELECT INBOX\r\n" + b"b2 FETCH 1:6 BODY.PEEK[]\r\n" * 20)
    return mail.sock


def test_nothing_loops(front: Front, context: ssl.SSLContext) -> None:
    """Whatever a session waits for, it does so without the processor."""
    wrapped, starttls = front["wrapped"]["imap"], front["starttls"]["imap"]
    hello = bytes.fromhex("16030100f1010000ed0303")
    mails = [logged_in(way, FRONT, "imap", account, context) for way in WAYS for account in (FAR, NEAR)]
    connections = [
        stalled(wrapped, b"", 0),
        stalled(wrapped, hello, 0),
        stalled(starttls, b"a1 STARTTLS\r\n", 2),
        stalled(starttls, b"a1 STARTTLS\r\n", 2),
        unread(FAR, context),
        unread(NEAR, context),
    ]
    connections[3].sendall(hello)
    helpers = [child for listener in (wrapped, starttls) for child in children(listener.pid)]
    assert len(helpers) == len(mails) + len(connections)
    processes = [*helpers, *(child for helper in helpers for child in children(helper))]
    for _ in range(2):  # the first round is for what they had to do at the beginning
        used = {pid: seconds_used(pid) for pid in processes}
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            check_mailbox(logged_in("wrapped", FRONT, "pop3", FAR, context))
    assert all(seconds_used(pid) - used[pid] < 0.05 for pid in processes)
    for connection in connections:
        connection.close()
    for mail in mails:
        log_out(mail)
    wait_until(lambda: all(map(is_gone, processes)), "a process stays")


def test_account_that_is_for_tls_only(area: Path, authority: Authority, protocol: str, context: ssl.SSLContext) -> None:
    """disableinsecureimap and disableinsecurepop3 look at how the client has come."""
    secured = replace(NEAR, options="disableinsecureimap=1,disableinsecurepop3=1")
    fill_maildir(home_of(area / "homes", secured) / "Maildir")
    both = authority.issue("secured", f"IP:{SECURED}").both
    tls = {"TLS_CERTFILE": str(both), "IMAPDSTARTTLS": "YES", "POP3_STARTTLS": "YES"}
    settings = {"PROXY_HOSTNAME": HOSTNAME, **SETTINGS, **tls}
    configuration = configure(area / "etc", [secured], area / "homes", **settings)
    with front_on(SECURED, configuration) as started:
        with pytest.raises((imaplib.IMAP4.error, poplib.error_proto), match=r"PRIVACYREQUIRED|encrypted"):
            clients.LOGIN[protocol](SECURED, secured)
        check_mailbox(logged_in("starttls", SECURED, protocol, secured, context))
        started["starttls"][protocol].log.wait_for(f"LOGIN REFUSED, user={secured.name}, .*disableinsecure{protocol}")
