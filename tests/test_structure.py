"""Each connection pays for every import. What is loaded at the greeting, and after a login from the userdb, stands
here: whoever adds a module to a list should know what it costs (`python -I -S -X importtime -c 'import …'`)."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scripted import LOGIN, log_in, read_login, start_tls
from support import CHECKOUT, DEADLINE, FRONT, Site, Tls, Wire, command, environment, need

AT_GREETING = """
    gc proxyhelper proxyhelper.dialogue proxyhelper.dialogue.greetings proxyhelper.entry proxyhelper.interpreter
    proxyhelper.settings proxyhelper.text
"""
AFTER_LOGIN = """
    _operator _sha1 _socket _stat binascii pwd select
    proxyhelper.accounts proxyhelper.accounts.account proxyhelper.accounts.passwords proxyhelper.accounts.proofs
    proxyhelper.accounts.userdb
    proxyhelper.activation proxyhelper.backend proxyhelper.descriptors
    proxyhelper.dialogue.client proxyhelper.dialogue.events proxyhelper.dialogue.forwarding
    proxyhelper.dialogue.imap proxyhelper.dialogue.imap_client
    proxyhelper.dialogue.lines proxyhelper.dialogue.server
    proxyhelper.ends proxyhelper.failures proxyhelper.handover proxyhelper.log proxyhelper.login proxyhelper.pipes
    proxyhelper.privileges proxyhelper.reception proxyhelper.relay proxyhelper.routing proxyhelper.session
"""
"""A login of IMAP in clear. reception: the client until then; handover: what follows; dialogue.client: what the client
halves of both protocols share. Nothing of TLS, of networks and of PROXY headers is among them."""
BEHIND_TLS = " _ssl proxyhelper.encrypted proxyhelper.tls"
"""Towards a backend; `_ssl` is OpenSSL; `ssl`, with `socket`, `re` and `enum` behind it, would be 15 ms more."""
CLIENT_BEHIND_TLS = BEHIND_TLS + " proxyhelper.client_tls"
TELLING = " proxyhelper.dialogue.forwarding"
"""Where a backend wants to know of the client."""
WITH_TRUST = " proxyhelper.arrival proxyhelper.networks proxyhelper.proxy_protocol"
"""Where PROXY_TRUSTED or PROXY_PROTOCOL are set."""

WATCHED = """
import posix, sys
before, write, leave = set(sys.modules), posix.write, posix._exit

def report(number):
    write(number, " ".join(set(sys.modules) - before).encode())

def first_write(descriptor, data):
    posix.write = write
    report({at_greeting})
    return write(descriptor, data)

def end(status):
    report({at_end})
    leave(status)

posix.write, posix._exit = first_write, end
sys.argv[:] = sys.argv[4:]
with open(sys.argv[0]) as file:
    source = file.read()
exec(compile(source, sys.argv[0], "exec"), {{"__name__": "__main__", "__file__": sys.argv[0]}})
"""


@dataclass
class Watched:
    """A helper between two pipes that tells what it has loaded."""

    wire: Wire
    at_greeting: Callable[[], set[str]]
    at_end: Callable[[], set[str]]


@pytest.fixture
def watched(site: Site) -> Iterator[Callable[..., Watched]]:
    need(os.geteuid() == 0, "root: becoming PROXY_USER is part of a login")
    with ExitStack() as stack:

        def begin(protocol: str = "imap", *local: str, **env: str) -> Watched:
            at_greeting, at_end = os.pipe(), os.pipe()
            code = WATCHED.format(at_greeting=at_greeting[1], at_end=at_end[1])
            helper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code, *command(protocol, *local)],
                env=environment(site, env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(at_greeting[1], at_end[1]),
            )
            assert helper.stdin
            assert helper.stdout
            stack.enter_context(helper)
            stack.callback(helper.kill)
            for reading, writing in (at_greeting, at_end):
                stack.callback(os.close, reading)
                os.close(writing)

            def loaded_at_greeting() -> set[str]:
                return set(os.read(at_greeting[0], 65536).decode().split())

            def loaded_at_end() -> set[str]:
                """When the client has left."""
                helper.stdin.close()
                assert helper.wait(DEADLINE) == 0
                return set(os.read(at_end[0], 65536).decode().split())

            wire = Wire(helper.stdout.fileno(), helper.stdin.fileno())
            return Watched(wire, loaded_at_greeting, loaded_at_end)

        yield begin


def test_plain_login(site: Site, watched, backend) -> None:
    site.account("u1", mailhost=backend.mailhost)
    helper = watched()
    helper.wire.line()
    log_in("imap", helper.wire, backend).close()
    assert helper.at_greeting() == set(AT_GREETING.split())
    assert helper.at_end() == set((AT_GREETING + AFTER_LOGIN).split())


def test_plain_login_where_tls_could_be(certified: Site, watched, backend) -> None:
    """Nothing of TLS is loaded before it is wanted."""
    certified.set(PROXY_TRUSTED="192.0.2.0/24", TLS_EXTERNAL="emailAddress")
    certified.account("u1", mailhost=backend.mailhost)
    helper = watched()
    helper.wire.line()
    log_in("imap", helper.wire, backend).close()
    assert helper.at_greeting() == set(AT_GREETING.split())
    assert helper.at_end() == set((AT_GREETING + AFTER_LOGIN + WITH_TRUST).split())


@pytest.mark.parametrize("wrapped", ["0", "1"])
def test_login_behind_tls(certified: Site, watched, backend, authority, wrapped) -> None:
    certified.account("u1", mailhost=backend.mailhost)
    helper = watched(PROXY_TLS_WRAP=wrapped)
    if wrapped == "0":
        helper.wire.line()
        start_tls(helper.wire, "imap")
    tls = Tls(helper.wire, authority.trusting(), FRONT)
    if wrapped == "1":
        tls.line()
    log_in("imap", tls, backend).close()
    assert helper.at_end() == set((AT_GREETING + AFTER_LOGIN + CLIENT_BEHIND_TLS).split())


def test_login_at_a_backend_behind_tls(site: Site, watched, backend, authority) -> None:
    certificate = authority.issue("structure", "IP:127.0.0.1")
    site.set(IMAP_PROXY_TLS="yes", PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    helper = watched()
    helper.wire.line()
    helper.wire.send(LOGIN["imap"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.both)
    wire = backend.accept()
    tls = Tls(wire, context, server_side=True)
    tls.send(b"* OK [CAPABILITY IMAP4rev1 ID] x\r\n")
    tls.line()
    tls.send(b"proxy0 OK\r\n" + read_login("imap", tls).reply(b"OK in"))
    helper.wire.until(b"a1 OK")
    wire.close()
    assert helper.at_end() == set((AT_GREETING + AFTER_LOGIN + BEHIND_TLS + TELLING).split())


def test_login_behind_a_balancer(site: Site, watched, backend) -> None:
    site.set(PROXY_PROTOCOL=1, PROXY_PROTOCOL_FROM="192.0.2.1")
    site.account("u1", mailhost=backend.mailhost)
    helper = watched(TCPREMOTEIP="192.0.2.1", TCPREMOTEPORT="1")
    helper.wire.send(b"PROXY UNKNOWN\r\n")
    helper.wire.line()
    log_in("imap", helper.wire, backend).close()
    assert helper.at_end() == set((AT_GREETING + AFTER_LOGIN + WITH_TRUST).split())


def test_the_design_shows_every_room() -> None:
    design = (CHECKOUT / "docs/design.md").read_text()
    package = CHECKOUT / "proxyhelper"
    rooms = [*package.glob("*.py"), *package.glob("dialogue/*.py")]
    missing = [room.name for room in rooms if not room.name.startswith("__") and room.name not in design]
    assert not missing
