"""`proxyhelper demo`, from its first line to nothing left behind."""

from __future__ import annotations

import imaplib
import importlib.util
import os
import pty
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import CHECKOUT, DEADLINE, Wire, need, wait_until

COMMAND = [sys.executable, "-m", "proxyhelper", "demo"]
LIVE = "as it comes, until Ctrl-C"
BOTH_SERVERS = "2  The configuration"
USERS = {"alice": "server A", "bob": "server B"}


def environment(temporary: Path, *python_path: Path) -> dict[str, str]:
    """One with settings in it that must not disturb the demo."""
    paths = [*python_path, *([] if "PROXYHELPER_BIN" in os.environ else [CHECKOUT])]
    return {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(temporary),
        "PYTHONPATH": ":".join(map(str, paths)),
        "TERM": "xterm",
        "IMAP_PROXY": "0",
        "PROXYHELPER_CONFDIR": "/nonexistent",
    }


class Demo(Wire):
    """The running demo, as somebody sees it who reads its output."""

    def __init__(self, process: subprocess.Popen[bytes], reading: int) -> None:
        super().__init__(reading)
        self.process = process
        self.text = ""

    def read_up_to(self, words: str) -> None:
        """Up to and including the next line that holds them."""
        line = ""
        while words not in line:
            line = self.line(3 * DEADLINE).decode()
            self.text += line

    def port(self) -> int:
        found = re.search(r"stands in front: 127\.0\.0\.1:(\d+)", self.text)
        assert found, self.text
        return int(found[1])

    def mailhost(self, server: str) -> tuple[str, int]:
        found = re.search(rf"{server}\S* +(127\.0\.0\.\d+):(\d+) has", self.text)
        assert found, self.text
        return found[1], int(found[2])

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def errors(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    need(importlib.util.find_spec("pymap") is not None, "pymap (pip install 'proxyhelper[demo]', Python 3.11)")
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


@contextmanager
def running(
    temporary: Path, *arguments: str, terminal: bool = False, python_path: Sequence[Path] = ()
) -> Iterator[Demo]:
    reading, writing = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(
        [*(["setsid", "--ctty", "--wait"] if terminal else []), *COMMAND, *arguments],
        env=environment(temporary, *python_path),
        cwd="/",
        stdin=writing if terminal else subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    demo = Demo(process, reading)
    try:
        yield demo
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            if process.poll() is None or pid != process.pid:
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert process.stderr
        process.stderr.close()
        if demo.reading >= 0:
            demo.close()


def descendants(parent: int) -> list[int]:
    """Living processes below `parent`, by pid."""
    parents = living()
    found = [parent]
    for pid in found:
        found += (child for child, its_parent in parents.items() if its_parent == pid)
    return found[1:]


def living() -> dict[int, int]:
    """All processes but zombies, with their parents."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents


def refuses(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) != 0


@contextmanager
def nothing_left(demo: Demo, temporary: Path) -> Iterator[None]:
    """What happens in here ends the demo and everything that it has started."""
    children = descendants(demo.process.pid)
    places = [demo.mailhost(server) for server in USERS.values() if f"{server} " in demo.text]
    assert children
    assert places
    yield
    wait_until(lambda: living().keys().isdisjoint(children), "a process is left")
    assert all(refuses(*place) for place in places)
    assert list(temporary.iterdir()) == []


def log_in(demo: Demo, person: str, tls: bool = False) -> imaplib.IMAP4:
    client = imaplib.IMAP4("127.0.0.1", demo.port(), DEADLINE)
    if tls:
        client.starttls(ssl._create_unverified_context())
    client.login(f"{person}@example.com", f"{person}-secret")
    return client


def subject(client: imaplib.IMAP4) -> str:
    client.select("INBOX")
    return str(client.fetch("1", "(BODY[HEADER.FIELDS (SUBJECT)])")[1])


def test_shows_four_logins_then_serves_until_stopped(temporary):
    with running(temporary) as demo:
        demo.read_up_to(LIVE)
        assert "Subject: You have reached server A" in demo.text
        assert "Subject: You have reached server B" in demo.text
        assert "a1 NO [AUTHENTICATIONFAILED]" in demo.text
        assert "a1 NO [UNAVAILABLE]" in demo.text
        assert "mailhost 127.0.0.2 is another host" in demo.text
        assert "\x1b" not in demo.text
        for person, server in USERS.items():
            client = log_in(demo, person)
            assert f"You have reached {server}" in subject(client)
            client.logout()
            demo.read_up_to(f"INFO: LOGOUT, user={person}@example.com")
        assert next(temporary.glob("*/userdb")).stat().st_mode & 0o777 == 0o600
        with nothing_left(demo, temporary):
            log_in(demo, "alice")  # and stays
            assert demo.stop(signal.SIGTERM) == 0
        assert refuses("127.0.0.1", demo.port())
        assert demo.errors() == ""


def test_starttls(temporary):
    need(shutil.which("openssl") is not None, "openssl")
    with running(temporary) as demo:
        demo.read_up_to(LIVE)
        assert f"-starttls imap -connect 127.0.0.1:{demo.port()}" in demo.text
        log_in(demo, "alice", tls=True).logout()
        demo.read_up_to("INFO: LOGOUT, user=alice@example.com")
        assert "tls=TLSv1.3" in demo.text
        assert next(temporary.glob("*/key.pem")).stat().st_mode & 0o777 == 0o600


def test_ctrl_c_at_a_terminal_and_colours(temporary):
    with running(temporary, terminal=True) as demo:
        demo.read_up_to(LIVE)
        assert "\x1b[1m1  Two IMAP servers" in demo.text
        with nothing_left(demo, temporary):
            demo.send(b"\x03")
            assert demo.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("words", ["server A", BOTH_SERVERS, "4  Alice"])
def test_stopped_half_way(temporary, words):
    with running(temporary) as demo:
        demo.read_up_to(words)
        with nothing_left(demo, temporary):
            assert demo.stop(signal.SIGHUP) == 1
        assert demo.errors() == "error: the demo was stopped before its end\n"


@pytest.mark.parametrize("words", [BOTH_SERVERS, LIVE])
def test_nobody_reads_its_output_any_longer(temporary, words):
    with running(temporary) as demo:
        demo.read_up_to(words)
        with nothing_left(demo, temporary):
            demo.close()
            demo.process.wait(DEADLINE)
        assert demo.errors() == ""


def test_the_servers_end_with_it_whatever_its_end(temporary):
    with running(temporary) as demo:
        demo.read_up_to(LIVE)
        children = descendants(demo.process.pid)
        assert len(children) == 2
        demo.stop(signal.SIGKILL)
        wait_until(lambda: living().keys().isdisjoint(children), "a server is left")


def test_a_server_dies(temporary):
    with running(temporary) as demo:
        demo.read_up_to(LIVE)
        with nothing_left(demo, temporary):
            os.kill(max(descendants(demo.process.pid)), signal.SIGKILL)
            assert demo.process.wait(DEADLINE) == 1
        address, port = demo.mailhost("server B")
        assert demo.errors() == f"error: server B (pymap on {address}:{port}) ended with status -9\n"


def test_a_server_does_not_start(temporary, tmp_path):
    (tmp_path / "pymap").mkdir()
    (tmp_path / "pymap" / "__init__.py").touch()
    (tmp_path / "pymap" / "main.py").write_text("raise SystemExit('no \\x1b[31mport')\n")
    with running(temporary, python_path=[tmp_path]) as demo:
        assert demo.process.wait(DEADLINE) == 1
        lines = demo.errors().splitlines()
    assert lines[0] == "    no \\x1b[31mport"
    assert re.fullmatch(r"error: server A \(pymap on 127\.0\.0\.2:\d+\) ended with status 1", lines[1])
    assert list(temporary.iterdir()) == []


def test_a_port_of_ones_own_choice(temporary):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(temporary, "--port", str(port)) as demo:
            demo.read_up_to(BOTH_SERVERS)
            with nothing_left(demo, temporary):
                assert demo.process.wait(DEADLINE) == 1
            assert demo.errors() == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "import sys; sys.modules['pymap'] = None; import proxyhelper.cli.demo as demo; demo.PYMAP_PYTHON = (3, 10)",
            "the demo needs pymap, an IMAP server in memory: pip install",
        ),
        ("import proxyhelper.cli.demo as demo; demo.PYMAP_PYTHON = (9, 9)", "need Python 9.9 or later; this is 3."),
    ],
)
def test_it_cannot_run_here(tmp_path, change, message):
    code = f"{change}; from proxyhelper.cli import main; main(['demo'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
