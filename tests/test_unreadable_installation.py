"""PROXY_USER need not be able to read the installation: what follows the giving up of root has been imported before."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real.certificates import Authority
from scripted import Backend
from support import PLACES, Session, Site, Tls, Wire, connect, environment, need, start


@pytest.fixture
def program(tmp_path: Path) -> str:
    """An installation that only root may read."""
    need(os.geteuid() == 0, "root, to have something to give up")
    place = next(place for place in PLACES if (place / "proxyhelper").is_dir())
    private = tmp_path / "private"
    shutil.copytree(place / "proxyhelper", private / "proxyhelper", ignore=shutil.ignore_patterns("contrib"))
    (private / "bin").mkdir()
    source = Path(__file__).resolve().parents[1] / "bin" / "proxyhelper-imap"
    shutil.copy(source, private / "bin")
    private.chmod(0o700)
    return str(private / "bin" / "proxyhelper-imap")


@pytest.fixture
def begin(program: str, site: Site) -> Iterator[Callable[[], Session]]:
    started: list[Session] = []

    def start_one() -> Session:
        ends, given = connect("tcp")
        started.append(start([sys.executable, "-I", "-S", program], environment(site, {}), ends, given))
        return started[0]

    yield start_one
    (begun,) = started
    begun.end()
    assert "internal error" not in begun.log.text
    assert "Traceback" not in begun.log.text


@pytest.mark.parametrize("tls", ["no", "yes"])
def test_login(site: Site, begin: Callable[[], Session], backend: Backend, authority: Authority, tls: str) -> None:
    site.set(PROXY_USER="nobody", IMAP_PROXY_TLS=tls, PROXY_CAFILE=authority.ca)
    site.account("u1", mailhost=backend.mailhost)
    session = begin()
    session.line()
    session.send(b"a LOGIN u1 secret\r\n")
    wire: Wire = backend.accept()
    if tls == "yes":
        mailhost = authority.issue("unreadable", "IP:127.0.0.1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(mailhost.certificate, mailhost.key)
        wire = Tls(wire, context, server_side=True)
    wire.send(b"* OK [CAPABILITY IMAP4rev1 ID] hello\r\n")
    assert b"ID (" in wire.line()
    wire.line()
    wire.send(b"proxy0 OK\r\nproxy1 OK in\r\n")
    assert session.line() == b"a OK in\r\n"
    session.send(b"b NOOP\r\n")
    assert wire.line() == b"b NOOP\r\n"
