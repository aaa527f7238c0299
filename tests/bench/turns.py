"""How often things are done, and how they are done in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from real.mail import Account

from .client import Client

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Effort:
    """How often each thing is done."""

    greetings: int
    sessions: int
    relays: int
    round_trips: int
    transfers: int
    bytes: int
    logins: int
    processes: int


FULL = Effort(
    greetings=300,
    sessions=150,
    relays=40,
    round_trips=400,
    transfers=8,
    bytes=GIGABYTE,
    logins=100,
    processes=40,
)
QUICK = Effort(
    greetings=40,
    sessions=20,
    relays=11,
    round_trips=200,
    transfers=2,
    bytes=GIGABYTE // 2,
    logins=20,
    processes=5,
)


def in_turn(times: int, *measurements: Callable[[], float]) -> list[float]:
    """The median of each measurement, all taken one after the other, so many times."""
    for measure in measurements:
        measure()
    rounds = [[measure() for measure in measurements] for _ in range(times)]
    return [median(taken) for taken in zip(*rounds, strict=True)]


def login(address: str, account: Account) -> Callable[[], float]:
    """A measurement: from the LOGIN command to its OK."""

    def measure() -> float:
        with Client(address) as client:
            return client.ask(f"LOGIN {account.name} {account.password}")

    return measure


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
