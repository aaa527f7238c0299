"""Start the helper as an activator does and talk to it; every read and write has a deadline."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
BIN = Path(os.environ.get("PROXYHELPER_BIN", CHECKOUT / "bin"))
PLACES = (BIN.parent, *BIN.parent.glob("lib/python3*/site-packages"), CHECKOUT)
DEADLINE = 10.0
FRONT = "front.example"
CAPABILITY = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE AUTH=PLAIN"
ADDRESS_SPACE_KB = 131072  # Courier's start script: ulimit -v $IMAP_ULIMITD


def need(present: bool, what: str) -> None:
    """Without `what` a test can say nothing: a failure on CI, a skip elsewhere."""
    if not present:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"missing: {what}")


def gdbm() -> ModuleType:
    """Python's dbm.gnu, with which makeuserdb's files are read."""
    try:
        import dbm.gnu
    except ImportError:
        need(False, "Python's dbm.gnu (package python3-gdbm)")
    return dbm.gnu


def hashed(password: str) -> str:
    return "{SHA}" + base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()


def b64(*parts: str | bytes) -> bytes:
    """A SASL response: the parts joined by NUL, in base64."""
    return base64.b64encode(b"\0".join(part.encode() if isinstance(part, str) else part for part in parts))


class Wire:
    """One end of a connection: a socket, or a pipe for each direction."""

    def __init__(self, reading: int | socket.socket, writing: int | None = None) -> None:
        self.socket = reading if isinstance(reading, socket.socket) else None
        self.reading = reading.fileno() if isinstance(reading, socket.socket) else reading
        self.writing = self.reading if writing is None else writing
        self.received = bytearray()  # read from the descriptor, not yet asked for
        if self.socket and self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        os.set_blocking(self.reading, False)
        os.set_blocking(self.writing, False)

    def send(self, data: bytes, within: float = DEADLINE) -> None:
        end, view = time.monotonic() + within, memoryview(data)
        while view:
            wait_for(self.writing, select.POLLOUT, end)
            view = view[self.push(view) :]

    def push(self, data: bytes | memoryview) -> int:
        """As much as the connection takes now."""
        with contextlib.suppress(BlockingIOError):
            return os.write(self.writing, data[: 1 << 18])
        return 0

    def fill(self, within: float = DEADLINE) -> bool:
        """Wait for more bytes; False at the end of the stream."""
        wait_for(self.reading, select.POLLIN, time.monotonic() + within)
        return self.pull()

    def pull(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.reading, 1 << 18)
            self.received += data
            return bool(data)
        return True

    def line(self, within: float = DEADLINE) -> bytes:
        end = time.monotonic() + within
        while (length := self.received.find(b"\n") + 1) == 0:
            if not self.fill(end - time.monotonic()):
                raise EOFError(f"connection closed after {bytes(self.received)!r}")
        return self.take(length)

    def exactly(self, size: int, within: float = DEADLINE) -> bytes:
        end = time.monotonic() + within
        while len(self.received) < size:
            if not self.fill(end - time.monotonic()):
                raise EOFError(f"connection closed after {len(self.received)} of {size} bytes")
        return self.take(size)

    def take(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def until(self, start: bytes) -> list[bytes]:
        """All lines up to and including the first that begins with `start`."""
        lines = [self.line()]
        while not lines[-1].startswith(start):
            lines.append(self.line())
        return lines

    def rest(self, within: float = DEADLINE) -> bytes:
        """Everything up to the end of the stream."""
        end = time.monotonic() + within
        while self.fill(end - time.monotonic()):
            pass
        return self.take(len(self.received))

    def ended(self, within: float = DEADLINE) -> bool:
        """The stream ends, or is reset, without another byte."""
        try:
            return self.rest(within) == b""
        except ConnectionResetError:
            return not self.received

    def silent(self, seconds: float) -> bool:
        """Nothing arrives for so long."""
        return not self.received and not self.readable(seconds)

    def readable(self, within: float = 0) -> bool:
        return bool(select.select([self.reading], [], [], within)[0])

    def half_close(self) -> None:
        if self.socket is not None:
            self.socket.shutdown(socket.SHUT_WR)
        else:
            os.close(self.writing)
            self.writing = -1

    def reset(self) -> None:
        assert self.socket is not None
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            return
        for fd in {self.reading, self.writing} - {-1}:
            os.close(fd)
        self.reading = self.writing = -1


class Tls(Wire):
    """The same end behind TLS, which begins with it; `first` is said in the segment that ends our handshake."""

    def __init__(
        self,
        under: Wire,
        context: ssl.SSLContext,
        name: str | None = None,
        *,
        server_side: bool = False,
        first: bytes = b"",
    ) -> None:
        self.under = under
        self.socket, self.reading, self.writing = under.socket, under.reading, under.writing
        self.received = bytearray()
        self.goodbye = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, name)
        self._take_ciphertext()
        self._shake_hands(first)
        self._decrypt()

    def push(self, data: bytes | memoryview) -> int:
        self.tls.write(data)
        self._flush()
        return len(data)

    def fill(self, within: float = DEADLINE) -> bool:
        return not self.goodbye and super().fill(within)

    def pull(self) -> bool:
        """False behind a close_notify; a connection that ends without one is an error."""
        if not self.under.pull():
            raise EOFError("connection closed without a close_notify")
        self._take_ciphertext()
        before = len(self.received)
        self._decrypt()
        return not self.goodbye or len(self.received) > before

    def half_close(self) -> None:
        """Say close_notify; the connection below stays open."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def _shake_hands(self, first: bytes) -> None:
        while True:
            try:
                self.tls.do_handshake()
                self.tls.write(first)
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                self._flush()
            if not self.under.fill():
                raise EOFError("connection closed in the handshake")
            self._take_ciphertext()

    def _take_ciphertext(self) -> None:
        self._incoming.write(self.under.take(len(self.under.received)))

    def _decrypt(self) -> None:
        try:
            while data := self.tls.read(1 << 18):
                self.received += data
            self.goodbye = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the same end, where we have said it before
            self.goodbye = True

    def _flush(self) -> None:
        self.under.send(self._outgoing.read())


def wait_for(fd: int, events: int, end: float) -> None:
    poll = select.poll()
    poll.register(fd, events)
    if not poll.poll(max(0, end - time.monotonic()) * 1000):
        raise TimeoutError("nothing happened on the connection before the deadline")


def wait_until(condition: Callable[[], object], what: str, patience: float = DEADLINE) -> None:
    """Return as soon as the condition holds; fail after the deadline, naming what did not happen."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {patience} s: {what}")
        time.sleep(0.01)


class Site:
    """A configuration directory as Courier's: settings for both protocols, and a userdb."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings: dict[str, str] = {}
        self.accounts: list[str] = []
        self.set(
            IMAP_PROXY=1,
            POP3_PROXY=1,
            PROXY_HOSTNAME=FRONT,
            IMAP_CAPABILITY=CAPABILITY,
            POP3AUTH="PLAIN LOGIN",
            LOGIN_FAIL_DELAY=0,
            PROXY_TIMEOUT=5,
        )
        (directory / "authdaemonrc").write_text('authmodulelist="authuserdb"\n')
        self.write_userdb()

    def set(self, **settings: object) -> None:
        self.settings.update({name: str(value) for name, value in settings.items()})
        text = "".join(f'{name}="{value}"\n' for name, value in self.settings.items())
        for name in ("imapd", "pop3d"):
            (self.directory / name).write_text(text)

    def account(
        self, name: str, password: str = "secret", *, mailhost: str = "", options: str = "", **fields: str | None
    ) -> None:
        """A userdb line; a field that is None is left out."""
        chosen = ",".join(filter(None, [mailhost and f"mailhost={mailhost}", options]))
        given = {
            "uid": "1000",
            "gid": "1000",
            "home": "/nonexistent",
            "mail": "/nonexistent/Maildir",
            "systempw": hashed(password),
            "options": chosen or None,
        } | fields
        self.accounts.append(f"{name}\t" + "|".join(f"{k}={v}" for k, v in given.items() if v is not None) + "\n")
        self.write_userdb()

    @property
    def userdb(self) -> Path:
        return self.directory / "userdb"

    def write_userdb(self) -> None:
        self.userdb.write_text("".join(self.accounts), newline="")
        self.userdb.chmod(0o600)


class Log(Wire):
    """What the helper and its local server write to stderr."""

    def __init__(self, reading: int) -> None:
        super().__init__(reading)
        self.text = ""

    def take(self, size: int) -> bytes:
        data = super().take(size)
        self.text += data.decode()
        return data

    def find(self, *words: str) -> str:
        """The next line that holds all of these."""
        while True:
            line = self.line().decode()
            if all(word in line for word in words):
                return line

    def finish(self) -> None:
        """Take what is there; a child of the helper may still hold the other end."""
        while self.reading >= 0 and self.readable() and self.pull():
            pass
        self.take(len(self.received))
        self.close()


Ends = tuple[socket.socket] | tuple[int, int]


class Session(Wire):
    """The client's end of a connection that the helper serves."""

    def __init__(self, ends: Ends, process: subprocess.Popen[bytes], log: Log) -> None:
        super().__init__(*ends)
        self.process = process
        self.log = log

    def exit_status(self, within: float = DEADLINE) -> int:
        return self.process.wait(within)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def pss_kb(self) -> int:
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens in here, the helper sees all at once."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.close()
        self.log.finish()


BOUND = {"tcp": ("127.0.0.1", "127.0.0.1"), "tcp6": ("::1", "::1"), "mapped": ("::", "127.0.0.1")}


def connect(kind: str) -> tuple[Ends, list[int]]:
    """The client's end of a new connection, and the descriptors 0 and 1 that an activator would give."""
    if kind == "pipes":
        their_input, our_output = os.pipe()
        our_input, their_output = os.pipe()
        return (our_input, our_output), [their_input, their_output]
    if kind == "socketpair":
        ours, theirs = socket.socketpair()
        return (ours,), [theirs.detach()]
    bound, host = BOUND[kind]
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as listener:
        return connect_to(listener, host)


def connect_to(listener: socket.socket, host: str = "127.0.0.1") -> tuple[Ends, list[int]]:
    address, port = listener.getsockname()[:2]
    ours = socket.create_connection((address if address.startswith("127.") else host, port), DEADLINE)
    return (ours,), [listener.accept()[0].detach()]


def command(protocol: str, *local: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(BIN / f"proxyhelper-{protocol}"), *local]


def patched(module: str, **constants: object) -> list[str]:
    """In front of a command: the same program with a module's constants changed, where the true ones take too long."""
    place = next(place for place in PLACES if (place / "proxyhelper").is_dir())
    code = "\n".join(
        [
            f"import sys, runpy; sys.path.insert(0, {str(place)!r})",
            f"import {module} as module",
            *(f"module.{name}; module.{name} = {value!r}" for name, value in constants.items()),
            "script = sys.argv[4]; sys.argv[:] = sys.argv[4:]",
            "runpy.run_path(script, run_name='__main__')",
        ]
    )
    return [sys.executable, "-I", "-S", "-c", code]


def limited(argv: Sequence[str]) -> list[str]:
    return ["/bin/sh", "-c", f'ulimit -v {ADDRESS_SPACE_KB}; exec "$0" "$@"', *argv]


def staged(argv: Sequence[str], mounts: Mapping[str, Path], hostname: str = "") -> list[str]:
    """In a mount (and host name) namespace of its own, with files bound over others."""
    need(os.geteuid() == 0, "root, for a mount namespace")
    steps = []
    for target, source in mounts.items():
        steps += dev_with_log(source) if target == "/dev/log" else [f"mount --bind {source} {target}"]
    steps += [f"hostname {hostname}"] if hostname else []
    return ["unshare", "--mount", "--uts", "/bin/sh", "-ec", "; ".join([*steps, 'exec "$0" "$@"']), *argv]


def dev_with_log(log: Path) -> list[str]:
    """Shell commands for a /dev of the mount namespace's own, with `log` as its log: there may be none to bind over."""
    dev = log.parent / f"{log.name}.dev"
    nodes = "null zero full random urandom"
    return [
        f"mkdir -p {dev}",
        f"mount -t tmpfs -o mode=755 none {dev}",
        f"for node in {nodes}; do : >{dev}/$node; mount --bind /dev/$node {dev}/$node; done",
        f"ln -s /proc/self/fd {dev}/fd",
        f": >{dev}/log",
        f"mount --bind {log} {dev}/log",
        f"mount --rbind {dev} /dev",
    ]


def environment(site: Site, extra: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PROXYHELPER_CONFDIR": str(site.directory), **extra}


def start(
    argv: Sequence[str], env: Mapping[str, str], ends: Ends, given: Sequence[int], *, stderr_is_connection: bool = False
) -> Session:
    """Run `argv` with the given descriptors as 0 and 1, and as 2 too where inetd would have it so."""
    reading, errors = os.pipe()
    process = subprocess.Popen(
        limited(argv),
        env=dict(env),
        cwd="/",
        stdin=given[0],
        stdout=given[-1],
        stderr=given[-1] if stderr_is_connection else errors,
    )
    for fd in {*given, errors}:
        os.close(fd)
    return Session(ends, process, Log(reading))


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="proxyhelper-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def admin(
    *arguments: str | Path, text: str = "", env: Mapping[str, str] = {}, within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `proxyhelper ARGUMENTS` to its end, with `text` on its standard input."""
    python_path = {} if "PROXYHELPER_BIN" in os.environ else {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-m", "proxyhelper", *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=within,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **python_path, **env},
    )
