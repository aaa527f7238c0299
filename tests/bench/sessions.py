"""Sessions that are measured while they last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import mean

from real.mail import Account
from support import wait_until

from . import processes
from .client import Client
from .turns import GIGABYTE

IDLE_SESSIONS = 50


def logged_in(client: Client, account: Account) -> Client:
    client.ask(f"LOGIN {account.name} {account.password}")
    return client


def alone(program: str) -> None:
    """Wait until the sessions of earlier measurements have ended."""
    wait_until(lambda: not processes.running(program), f"{program} still runs")


def one_process(program: str) -> int:
    """The only one that runs it."""
    (pid,) = processes.running(program)
    return pid


def resting(program: str, session: Callable[[], Client]) -> float:
    """Mean PSS of many sessions at rest, all at the same time."""
    alone(program)
    with ExitStack() as clients:
        for _ in range(IDLE_SESSIONS):
            clients.enter_context(session()).ask("NOOP")
        found = processes.running(program)
        assert len(found) == IDLE_SESSIONS, f"{len(found)} processes for {IDLE_SESSIONS} sessions"
        return mean(map(processes.pss_megabytes, found))


class Transfer:
    """Literals of so many bytes, fetched in one session, and the CPU time of the process that relays them."""

    def __init__(self, client: Client, pid: int, size: int) -> None:
        self.client = client
        self._pid = pid
        self._size = size
        self._moved = 0
        self._used = 0.0

    def speed(self) -> float:
        """MB/s of one more literal."""
        before = processes.cpu_seconds(self._pid)
        seconds = self.client.fetch(self._size)
        self._used += processes.cpu_seconds(self._pid) - before
        self._moved += self._size
        return self._size / 1e6 / seconds

    def cpu_per_gigabyte(self) -> float:
        """Seconds, of all literals so far."""
        return self._used / (self._moved / GIGABYTE)
