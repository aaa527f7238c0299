"""Behind programs that do the client's TLS and run the helper on the clear end: couriertls, stunnel."""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from support import command as helper
from support import open_directory, wait_until

from .activators import Listener, Service, couriertcpd, listening
from .certificates import Authority, Certificate
from .clients import CLIENT, Imap, check_mailbox, imap_message, log_out, port_of
from .conftest import FAR, NEAR, SETTINGS, Site
from .courier import local_server
from .mail import Account, message
from .servers import TLS_PORTS
from .test_processes import is_gone
from .tls import EXTERNAL, LOGGED_IN, client, handshake, logged_in
from .world import HERE, program

FRONT = "127.0.0.1"
STUNNEL = """\
foreground = {foreground}
pid = {directory}/pid
output = {directory}/stunnel.log
[service]
accept = {address}:{port}
cert = {certificate}
exec = {program}
execArgs = {arguments}
"""

InFront = Callable[[Service, Certificate], AbstractContextManager[Listener]]


def couriertls(service: Service, certificate: Certificate) -> AbstractContextManager[Listener]:
    """As Courier's start script runs it."""
    argv = [program("couriertls"), "-server", "-tcpd", *service.argv]
    environment = {**service.environment, "TLS_CERTFILE": str(certificate.both), "TLS_PROTOCOL": "TLSv1.2++"}
    return couriertcpd(Service(service.directory, service.address, service.port, argv, environment))


def stunnel(service: Service, certificate: Certificate) -> AbstractContextManager[Listener]:
    """In the foreground, where its stderr is that of the helper."""
    file = service.directory / "stunnel.conf"
    place = {"directory": service.directory, "address": service.address, "port": service.port}
    what = {"program": service.argv[0], "arguments": " ".join(service.argv), "certificate": certificate.both}
    file.write_text(STUNNEL.format(**place, **what, foreground="yes"))
    of_service = (service.directory, service.address, service.port)
    return listening(*of_service, [program("stunnel4"), str(file)], service.environment, HERE)


IN_FRONT: dict[str, InFront] = {"couriertls": couriertls, "stunnel": stunnel}
Front = dict[str, Listener]


@pytest.fixture(scope="module", params=IN_FRONT)
def front(request: pytest.FixtureRequest, site: Site, backends: None, authority: Authority) -> Iterator[Front]:
    certificate = authority.issue("in-front", f"IP:{FRONT}")
    with ExitStack() as stack:
        started = {}
        for protocol, port in TLS_PORTS.items():
            directory = stack.enter_context(open_directory())
            secured = {f"{protocol.upper()}_TLS": "1", f"{protocol.upper()}_TLS_REQUIRED": "1"}
            secured |= {"TLS_VERIFYPEER": "PEER", "TLS_TRUSTCERTS": str(authority.ca), "TLS_EXTERNAL": "emailaddress"}
            secured["IMAP_CAPABILITY_TLS"] = f"{SETTINGS['IMAP_CAPABILITY']} XSECURE"
            argv = helper(protocol, *local_server(protocol))
            service = Service(directory, FRONT, port, argv, site.environment | secured)
            started[protocol] = stack.enter_context(IN_FRONT[request.param](service, certificate))
        yield started
        for listener in started.values():
            assert not listener.log.matching("Traceback|internal error|Secret")


@pytest.fixture(params=[FAR, NEAR], ids=lambda account: account.name)
def account(request: pytest.FixtureRequest) -> Account:
    assert isinstance(request.param, Account)
    return request.param


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return authority.trusting()


def test_mailbox(front: Front, protocol: str, account: Account, context: ssl.SSLContext) -> None:
    """Every message, and a log that says that it went over TLS."""
    mail = logged_in("wrapped", FRONT, protocol, account, context)
    port = port_of(mail)
    check_mailbox(mail)
    flag = {"imap": "starttls=1", "pop3": "stls=1"}[protocol]
    who = rf"user={account.name}, ip=\[(::ffff:)?{re.escape(CLIENT)}\], port=\[{port}\]"
    line = front[protocol].log.wait_for(rf"LOG(IN|OUT), {who}.*{flag}")
    assert ", tls=" not in line, "we do not know"


def test_as_behind_starttls(front: Front, protocol: str, context: ssl.SSLContext) -> None:
    """What is offered to clients behind TLS, and no second TLS."""
    mail = client("wrapped", FRONT, protocol, context)
    if isinstance(mail, Imap):
        assert {"XSECURE", "AUTH=PLAIN"} <= set(mail.capabilities)
        assert not {"STARTTLS", "LOGINDISABLED"} & set(mail.capabilities)
    else:
        assert {"USER", "SASL"} <= set(mail.capa())
        assert "STLS" not in mail.capa()
    log_out(mail)


@pytest.mark.parametrize("front", ["couriertls"], indirect=True)
def test_external(front: Front, protocol: str, authority: Authority) -> None:
    """couriertls has verified the client's certificate, and says whose it is."""
    mine = authority.issue("near-behind", subject=f"/CN=someone/emailAddress={NEAR.name}")
    options = ("-cert", str(mine.certificate), "-key", str(mine.key))
    assert re.search(LOGGED_IN[protocol], handshake("wrapped", FRONT, protocol, *options, lines=EXTERNAL[protocol]))
    front[protocol].log.wait_for(f"LOGIN, user={NEAR.name}, ")
    refused = handshake("wrapped", FRONT, protocol, lines=EXTERNAL[protocol])
    assert re.search({"imap": r"\na1 (NO|BAD) ", "pop3": r"\n-ERR "}[protocol], refused)


def test_upload(front: Front, account: Account, context: ssl.SSLContext) -> None:
    uploaded = message("uploaded", b"".join(b"%07d up up up up\n" % n for n in range(50_000)))
    mail = logged_in("wrapped", FRONT, "imap", account, context)
    assert isinstance(mail, Imap)
    mail.create("INBOX.Uploaded")
    assert mail.append("INBOX.Uploaded", "", "", uploaded)[0] == "OK"
    _, (count,) = mail.select("INBOX.Uploaded")
    assert imap_message(mail, int(count or 0)) == uploaded
    log_out(mail)


def children(pid: int) -> list[int]:
    """The processes that any of its threads has started, but for those that have ended."""
    of_threads = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for of_thread in of_threads for child in of_thread if not is_gone(int(child))]


def test_nothing_stays_of_a_client_that_vanishes(
    front: Front, protocol: str, account: Account, context: ssl.SSLContext
) -> None:
    listener = front[protocol]
    wait_until(lambda: not children(listener.pid), "sessions of other tests have not ended")
    mail = logged_in("wrapped", FRONT, protocol, account, context)
    assert children(listener.pid)
    with socket.socket(fileno=os.dup(mail.sock.fileno())) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(mail.sock.detach())
    wait_until(lambda: not children(listener.pid), "a process stays")
