"""What the kernel says of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def running(program: str) -> list[int]:
    """The processes that an activator started with this program in their command line."""
    return [pid for pid, argv in _commands() if program in argv and Path(argv[0]).name != "couriertcpd"]


def children(parent: int, name: str) -> list[int]:
    """The children of this name."""
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"]


def _commands() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (line := (entry / "cmdline").read_bytes()):
                yield int(entry.name), os.fsdecode(line).split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue


def cpu_seconds(pid: int) -> float:
    """User and system time."""
    assert Path(f"/proc/{pid}").exists(), f"process {pid} has ended"
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def pss_megabytes(pid: int) -> float:
    """Memory, with shared pages counted in proportion."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
