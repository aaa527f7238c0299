"""What the servers under test stand in: processes with deadlines, private mounts, log files."""

from __future__ import annotations

import array
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from support import DEADLINE, dev_with_log, need, wait_until

PATIENCE = DEADLINE
BARE_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def program(name: str) -> str:
    """The path of an installed program."""
    path = shutil.which(name, path=BARE_ENVIRONMENT["PATH"])
    need(path is not None, f"the program {name}")
    return str(path)


def is_listening(address: str, port: int) -> bool:
    """Whether a TCP socket listens there, found out without connecting to it."""
    family, table = (socket.AF_INET6, "tcp6") if ":" in address else (socket.AF_INET, "tcp")
    words = array.array("I", socket.inet_pton(family, address))
    wanted = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    entries = (line.split() for line in Path("/proc/net", table).read_text().splitlines())
    return any(entry[1] == wanted and entry[3] == "0A" for entry in entries)


@dataclass(frozen=True)
class LogFile:
    """Log lines as they arrive through one sink."""

    path: Path

    def lines(self) -> list[str]:
        """Every complete line so far."""
        if not self.path.exists():
            return []
        return self.path.read_text(errors="backslashreplace").split("\n")[:-1]

    def matching(self, pattern: str) -> list[str]:
        """The lines that hold the regular expression."""
        return [line for line in self.lines() if re.search(pattern, line)]

    def wait_for(self, pattern: str, patience: float = PATIENCE) -> str:
        """The first line that holds the regular expression, as soon as there is one."""
        try:
            wait_until(lambda: self.matching(pattern), "no such line", patience)
        except AssertionError:
            raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines())) from None
        return self.matching(pattern)[0]


@dataclass(frozen=True)
class Syslog(LogFile):
    """The log of a syslog daemon that listens on this socket."""

    socket: Path


def as_syslogd_writes(datagram: bytes) -> bytes:
    """A message to /dev/log as a line of a log file: priority taken off, time stamp kept or added, host name added."""
    stamped = re.fullmatch(rb"(?:<\d+>)?(?:(\w{3} [ \d]\d [\d:]{8}) )?(.*?)[\n\0]*", datagram, re.DOTALL)
    assert stamped
    stamp = stamped[1] or time.strftime("%b %e %H:%M:%S").encode()
    return stamp + b" mailserver " + stamped[2].replace(b"\n", b"#012") + b"\n"


@contextmanager
def syslog(directory: Path) -> Iterator[Syslog]:
    """A syslog daemon that writes lines as syslogd writes them."""
    log = Syslog(directory / "syslog", directory / "log.socket")
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(log.socket))
    log.socket.chmod(0o666)

    def write(file: IO[bytes]) -> None:
        with file:
            while datagram := receiver.recv(65536):
                file.write(as_syslogd_writes(datagram))
                file.flush()

    writer = threading.Thread(target=write, args=(log.path.open("ab"),), daemon=True)
    writer.start()
    try:
        yield log
    finally:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(log.socket))
        writer.join(PATIENCE)
        receiver.close()


@dataclass(frozen=True)
class World:
    """One host among those of a test: its name, its files laid over the real ones, its syslog, its limits."""

    hostname: str = ""
    files: Mapping[str, Path] = field(default_factory=dict)
    log_socket: Path | None = None
    address_space: int = 0
    """Kilobytes, as for `ulimit -v`."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs argv in this world, in the same process from start to end."""
        if self == HERE:
            return list(argv)
        return ["unshare", "--mount", "--uts", "sh", "-ec", "\n".join([*self._steps(), 'exec "$@"']), "world", *argv]

    def _steps(self) -> Iterator[str]:
        if self.hostname:
            yield shlex.join(["hostname", self.hostname])
        for target, source in self.files.items():
            yield shlex.join(["mount", "--bind", str(source), target])
        if self.log_socket:
            yield from dev_with_log(self.log_socket)
        if self.address_space:
            yield f"ulimit -v {self.address_space}"


HERE = World()
"""The world of the tests themselves."""


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    world: World = HERE,
    output: Path | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server with its stdout and stderr in a file, and stop it and all of its process group at the end."""
    with open(output or os.devnull, "ab") as sink:
        server = subprocess.Popen(
            world.command(command),
            env=BARE_ENVIRONMENT | dict(environment or {}),
            stdin=stdin,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield server
    finally:
        server.send_signal(stop)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        server.wait()


def run(command: Sequence[str], *, world: World = HERE, environment: Mapping[str, str] | None = None) -> bytes:
    """Run a command to its end; its output. It must succeed."""
    done = subprocess.run(
        world.command(command),
        env=BARE_ENVIRONMENT | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{shlex.join(command)}: exit {done.returncode}\n{output}"
    return done.stdout
