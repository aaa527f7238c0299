"""The figures. Each function measures both sides turn by turn.

Those of TLS are in encrypted.py, those of the account sources in sources.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterable
from statistics import median

from . import encrypted, sources
from .client import Client
from .report import Row
from .sessions import IDLE_SESSIONS, Transfer, alone, logged_in, one_process, resting
from .stage import (
    BARE,
    COURIER,
    FEW,
    HEAVY,
    MANY,
    OURS,
    OURS_WITH_FEW,
    OURS_WITH_MANY,
    READER,
    Stage,
    middle_and_end,
)
from .turns import Effort, in_turn, login, milliseconds


def greeting(stage: Stage, effort: Effort) -> list[Row]:
    """From connect to greeting under couriertcpd, against the least that Python can do there."""

    def greeted(address: str) -> Callable[[], float]:
        def measure() -> float:
            with Client(address) as client:
                return client.greeted

        return measure

    ours, bare, courier = in_turn(effort.greetings, greeted(OURS), greeted(BARE), greeted(COURIER))
    return [
        Row("connect to greeting", milliseconds(ours), milliseconds(bare), "bare Python", ours / bare, 1.35),
        Row("connect to greeting", milliseconds(ours), milliseconds(courier), "Courier", ours / courier),
    ]


def session_cpu(stage: Stage, effort: Effort) -> list[Row]:
    """CPU time of a whole proxied session, against that of a Python that does nothing."""

    def session(client: socket.socket) -> None:
        with Client(client) as mail:
            mail.ask(f"LOGIN {READER.name} {READER.password}")
            mail.ask("NOOP")
            mail.ask("LOGOUT")

    def cpu(argv: list[str], play: Callable[[socket.socket], None]) -> Callable[[], float]:
        def measure() -> float:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                client = socket.create_connection(listener.getsockname())
                server = listener.accept()[0]
            with client, server:
                process = subprocess.Popen(
                    argv,
                    env=stage.environment,
                    stdin=server.fileno(),
                    stdout=server.fileno(),
                    stderr=subprocess.DEVNULL,
                )
                server.close()
                play(client)
            usage = os.wait4(process.pid, 0)[2]
            process.returncode = 0
            return usage.ru_utime + usage.ru_stime

        return measure

    ours, bare = in_turn(
        effort.sessions, cpu(stage.helper, session), cpu(stage.bare("pass"), lambda client: client.close())
    )
    return [Row("CPU of a session", milliseconds(ours), milliseconds(bare), "bare Python", ours / bare, 2.2)]


def round_trip(stage: Stage, effort: Effort) -> list[Row]:
    """NOOP through the relay to Dovecot, against Courier's; in many sessions, as their place on the cores matters."""

    def of_a_session() -> list[float]:
        with logged_in(Client(OURS), READER) as one, logged_in(Client(COURIER), READER) as other:
            return in_turn(effort.round_trips, lambda: one.ask("NOOP"), lambda: other.ask("NOOP"))

    ours, courier = map(median, zip(*[of_a_session() for _ in range(effort.relays)], strict=True))
    return [Row("NOOP through the relay", milliseconds(ours), milliseconds(courier), "Courier", ours / courier, 1.5)]


def bulk(stage: Stage, effort: Effort) -> list[Row]:
    """A literal from the backend, against Courier's relay: speed, and CPU time of the relaying process."""

    def transfer(address: str, program: str) -> Transfer:
        alone(program)
        client = logged_in(Client(address), HEAVY)
        return Transfer(client, one_process(program), effort.bytes)

    one, other = transfer(OURS, stage.program), transfer(COURIER, stage.peer)
    with one.client, other.client:
        ours, courier = in_turn(effort.transfers, one.speed, other.speed)
    our_cpu, courier_cpu = one.cpu_per_gigabyte(), other.cpu_per_gigabyte()
    return [
        Row("bulk", f"{ours:.0f} MB/s", f"{courier:.0f} MB/s", "Courier", ours / courier, 1.4, at_least=True),
        Row("CPU of bulk per GB", f"{our_cpu:.2f} s", f"{courier_cpu:.2f} s", "Courier", our_cpu / courier_cpu, 0.5),
    ]


def memory(stage: Stage, effort: Effort) -> list[Row]:
    """Mean PSS of many sessions at rest."""
    ours = resting(stage.program, lambda: logged_in(Client(OURS), READER))
    courier = resting(stage.peer, lambda: logged_in(Client(COURIER), READER))
    figure = f"PSS, {IDLE_SESSIONS} idle sessions"
    return [Row(figure, f"{ours:.2f} MB", f"{courier:.2f} MB", "Courier", ours, 3.5, unit="MB")]


def large_userdb(stage: Stage, effort: Effort) -> list[Row]:
    """The login command with 100,000 accounts, against 100. The bound is for the average account, in the middle."""

    rows = []
    bounds = {"middle": 1.5, "end": None}
    for (place, bound), few, many in zip(bounds.items(), middle_and_end(FEW), middle_and_end(MANY), strict=True):
        long, short = in_turn(effort.logins, login(OURS_WITH_MANY, many), login(OURS_WITH_FEW, few))
        figure = f"login, {place} of {MANY:,}"
        rows.append(Row(figure, milliseconds(long), milliseconds(short), f"of {FEW}", long / short, bound))
    return rows


FIGURES: dict[str, Callable[[Stage, Effort], list[Row]]] = {
    "greeting": greeting,
    "session": session_cpu,
    "noop": round_trip,
    "bulk": bulk,
    "memory": memory,
    "userdb": large_userdb,
    "tls-login": encrypted.login,
    "tls-bulk": encrypted.bulk,
    "tls-memory": encrypted.memory,
    "sources": sources.figures,
}


def measured(stage: Stage, effort: Effort, names: Iterable[str], again: int) -> list[Row]:
    """The rows of these figures; one that misses its bound is measured again up to so many times."""
    rows = []
    for name in names:
        taken = FIGURES[name](stage, effort)
        for _ in range(again):
            if all(row.holds for row in taken):
                break
            taken = FIGURES[name](stage, effort)
        rows += taken
    return rows
