"""A configuration directory, and sessions on it that end with their test."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from real.certificates import Authority, Certificate
from scripted import Backend, log_in, start_tls
from support import (
    FRONT,
    Session,
    Site,
    Tls,
    Wire,
    command,
    connect,
    connect_to,
    environment,
    need,
    open_directory,
    staged,
    start,
)

SECRET = "secret"  # what Site.account gives everybody: found in no log
Start = Callable[..., Session]
Secured = Callable[..., tuple[Session, Tls]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def helper(site: Site) -> Iterator[Start]:
    """Start `proxyhelper-imap` or `-pop3` on a new connection."""
    need(os.geteuid() == 0, "root, to become the users that a session runs as")
    sessions: list[Session] = []

    def begin(
        protocol: str = "imap",
        *local: str,
        client: str | socket.socket = "tcp",
        env: Mapping[str, str] = {},
        wrapped: Sequence[str] = (),
        mounts: Mapping[str, Path] = {},
        hostname: str = "",
        stderr_is_connection: bool = False,
    ) -> Session:
        argv = [*wrapped, *command(protocol, *local)]
        if mounts or hostname:
            argv = staged(argv, mounts, hostname)
        ends, given = connect(client) if isinstance(client, str) else connect_to(client)
        sessions.append(start(argv, environment(site, env), ends, given, stderr_is_connection=stderr_is_connection))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.end()
        assert "Traceback" not in session.log.text
        assert SECRET not in session.log.text


@pytest.fixture
def backend() -> Iterator[Backend]:
    with closing(Backend()) as server:
        yield server


@pytest.fixture
def greeted(helper: Start) -> Start:
    """As `helper`, with the greeting read already."""

    def begin(*args: object, **options: object) -> Session:
        session = helper(*args, **options)
        session.line()
        return session

    return begin


@pytest.fixture
def relayed(site: Site, greeted: Start, backend: Backend) -> Callable[..., tuple[Session, Wire]]:
    """A client and its backend, logged in."""
    site.account("u1", mailhost=backend.mailhost)

    def begin(protocol: str = "imap", *args: str, **options: object) -> tuple[Session, Wire]:
        session = greeted(protocol, *args, **options)
        return session, log_in(protocol, session, backend)

    return begin


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    """Who certifies everybody in these tests."""
    with open_directory() as directory:
        yield Authority(directory)


@pytest.fixture(scope="session")
def front(authority: Authority) -> Certificate:
    """The helper's."""
    return authority.issue("front", f"DNS:{FRONT}", "IP:127.0.0.1")


@pytest.fixture
def certified(site: Site, front: Certificate) -> Site:
    """Settings with which TLS is offered."""
    site.set(TLS_CERTFILE=front.both, IMAPDSTARTTLS="YES", POP3_STARTTLS="YES")
    return site


@pytest.fixture
def secured(certified: Site, helper: Start, authority: Authority) -> Secured:
    """As `greeted`, behind TLS: after STARTTLS, or `wrapped` in it from the first byte."""

    def begin(
        protocol: str = "imap",
        *local: str,
        way: str = "starttls",
        context: ssl.SSLContext | None = None,
        env: Mapping[str, str] = {},
        **options: object,
    ) -> tuple[Session, Tls]:
        context = context or authority.trusting()
        session = helper(protocol, *local, env={**env, "PROXY_TLS_WRAP": str(int(way == "wrapped"))}, **options)
        if way == "wrapped":
            tls = Tls(session, context, FRONT)
            tls.line()
            return session, tls
        session.line()
        start_tls(session, protocol)
        return session, Tls(session, context, FRONT)

    return begin


@pytest.fixture
def home() -> Iterator[Path]:
    """Somebody's home: uid and gid 1000 own it."""
    with open_directory() as directory:
        os.chown(directory, 1000, 1000)
        yield directory
