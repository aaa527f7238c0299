"""A site that `proxyhelper check` finds nothing wrong with, and ways to run the administrator's commands."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from real.certificates import Authority
from support import CAPABILITY, CHECKOUT, DEADLINE, Site, admin, command

GREETING = {"imap": b"* OK [CAPABILITY IMAP4rev1] real\r\n", "pop3": b"+OK real\r\n"}


@dataclass(frozen=True)
class Found:
    """One of the findings of `check --json`."""

    section: str
    level: str
    what: str
    remedy: str
    file: str
    line: int
    setting: str


@dataclass(frozen=True)
class Report:
    """What `check --json` says."""

    status: int
    errors: int
    warnings: int
    findings: list[Found]
    text: str

    def all(self, *words: str, level: str = "") -> list[Found]:
        """The findings whose text holds all of these."""
        return [one for one in self.findings if all(word in one.what for word in words) and level in ("", one.level)]

    def one(self, *words: str) -> Found:
        """The only finding whose text holds all of these."""
        found = self.all(*words)
        assert len(found) == 1, f"{len(found)} findings with {words} in:\n{self.text}"
        return found[0]

    @property
    def wrong(self) -> list[Found]:
        """The errors and warnings."""
        return [one for one in self.findings if one.level in ("error", "warning")]


def write(directory: Path, name: str, *lines: str) -> Path:
    """A file of a site, with these lines."""
    file = directory / name
    file.write_text("".join(f"{line}\n" for line in lines), newline="")
    return file


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Each settings file has what belongs in it, and the userdb nobody yet."""
    directory = tmp_path / "etc"
    directory.mkdir(0o755)
    site = Site(directory)
    common = ["PROXY_HOSTNAME=front.example", "PROXY_TRUSTED=127.0.0.0/8", "LOGIN_FAIL_DELAY=0", "PROXY_TIMEOUT=5"]
    write(directory, "imapd", "# IMAP", "IMAP_PROXY=1", f'IMAP_CAPABILITY="{CAPABILITY}"', *common)
    write(directory, "pop3d", "# POP3", "POP3_PROXY=1", *common)
    return site


@pytest.fixture
def add(site: Site) -> Callable[..., None]:
    """Add a line to a settings file; its number is `last_line`."""

    def to(name: str, *lines: str) -> int:
        with (site.directory / name).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return len((site.directory / name).read_text().splitlines())

    return to


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def no_entries(tmp_path: Path) -> Path:
    """In place of the activators' entries that the machine of the tests has."""
    directory = tmp_path / "entries"
    directory.mkdir()
    return directory


@pytest.fixture
def entry(tmp_path: Path) -> Callable[..., Path]:
    """Write xinetd's entry of the helper into a file."""

    def make(
        protocol: str,
        *local: str,
        user: str = "root",
        program: list[str] | None = None,
        port: int = 0,
        env: str = "",
    ) -> Path:
        argv = [*(program or command(protocol)), *local]
        return write(
            tmp_path,
            f"xinetd.{protocol}{'s' * bool(env)}",
            f"service {protocol}",
            "{",
            f"port = {port or {'imap': 143, 'pop3': 110}[protocol]}",
            f"env = {env}",
            f"user = {user}",
            "flags = NAMEINARGS",
            f"server = {argv[0]}",
            f"server_args = {' '.join(argv)}",
            "}",
        )

    return make


@pytest.fixture
def run(site: Site) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command about the site. None shows a traceback, or leaves an escape sequence to the terminal."""

    def command(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        done = admin("-c", site.directory, *arguments, **options)
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        return done

    return command


@pytest.fixture
def check(run: Callable[..., subprocess.CompletedProcess[str]], no_entries: Path) -> Callable[..., Report]:
    def examine(*entries: Path, **options: object) -> Report:
        places = [word for place in entries or (no_entries,) for word in ("--entries", str(place))]
        done = run("check", "--json", *places, **options)
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        findings = [Found(**finding) for finding in report["findings"]]
        assert done.returncode == (1 if report["errors"] else 0)
        return Report(done.returncode, report["errors"], report["warnings"], findings, done.stdout)

    return examine


STARTTLS = {b"pr": b"proxy3 OK now\r\n", b"ST": b"+OK now\r\n"}
"""Answers to IMAP's and POP3's command by its first letters."""


@contextmanager
def greeter(
    greeting: bytes, host: str = "127.0.0.1", port: int = 0, tls: str = "no", certificate: Path | None = None
) -> Iterator[str]:
    """A mailhost that says this to everybody; `tls` as in IMAP_PROXY_TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        context.load_cert_chain(certificate)

    def serve_one(client: socket.socket) -> None:
        client.settimeout(DEADLINE)
        if tls == "yes":
            client = context.wrap_socket(client, server_side=True)
        client.sendall(greeting)
        if tls == "starttls":
            client.sendall(STARTTLS[client.recv(4096)[:2]])
            client = context.wrap_socket(client, server_side=True)
        client.recv(1)
        client.close()

    with socket.create_server((host, port)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as client, contextlib.suppress(OSError):
                        serve_one(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE)


@pytest.fixture
def greeting_with() -> Callable[..., AbstractContextManager[str]]:
    return greeter


@pytest.fixture
def imap_server() -> Iterator[str]:
    with greeter(GREETING["imap"]) as mailhost:
        yield mailhost


@pytest.fixture
def healthy(add: Callable[..., int], imap_server: str, site: Site) -> Site:
    """One account, on an IMAP server that answers."""
    site.account("u1", mailhost=imap_server, options="disablepop3=1")
    return site


def read_terminal(master: int, seen: bytearray, done: Callable[[], bool]) -> None:
    """Read what is shown until it is `done` or the terminal is left."""
    end = time.monotonic() + 30
    while not done():
        if not select.select([master], [], [], max(0, end - time.monotonic()))[0]:
            raise TimeoutError(f"nothing more is shown after {bytes(seen)!r}")
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            return
        if not data:
            return
        seen += data


@pytest.fixture
def on_terminal(site: Site) -> Callable[..., tuple[int, str]]:
    """Run a command on a terminal of its own; when `prompt` is shown, type `answer`."""

    def command(
        *arguments: str | Path, prompt: str = "", answer: str = "", env: Mapping[str, str] = {}
    ) -> tuple[int, str]:
        path = {} if "PROXYHELPER_BIN" in os.environ else {"PYTHONPATH": str(CHECKOUT)}
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TERM": "xterm", **path, **env}
        argv = [sys.executable, "-m", "proxyhelper", "-c", str(site.directory), *map(str, arguments)]
        child, master = pty.fork()
        if child == 0:
            try:
                os.chdir("/")
                os.execve(argv[0], argv, environment)
            finally:
                os._exit(127)
        seen = bytearray()
        try:
            if prompt:
                read_terminal(master, seen, lambda: prompt.encode() in seen)
                os.write(master, answer.encode() + b"\n")
            read_terminal(master, seen, lambda: False)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            os.close(master)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, seen.decode(errors="backslashreplace")

    return command


@pytest.fixture
def write_file(site: Site) -> Callable[..., Path]:
    return partial(write, site.directory)
