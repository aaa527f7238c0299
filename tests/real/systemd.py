"""A host whose process 1 is a real systemd: namespaces and an /etc of its own, and the network of the tests.

with booted(directory) as host:
    (host.etc / "systemd/system/hello.service").write_text(...)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "hello.service")
    host.wait_for_log(MESSAGE="Hello.*", SYSLOG_IDENTIFIER="hello")
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import need, wait_until

from .world import PATIENCE, World, run, running

SYSTEMD = Path("/usr/lib/systemd/systemd")
UNITS = Path("/usr/lib/systemd/system")
JOURNALD = ("systemd-journald.socket", "systemd-journald.service")
BOOT_TARGET = "[Unit]\nDefaultDependencies=no\nWants={0}\nAfter={0}\n".format(JOURNALD[0])
TARGETS = ("basic", "network-online", "shutdown", "sockets", "sysinit")
"""What other units depend on by default, here with nothing behind it."""

IN_OWN_CGROUP = """\
mount -t cgroup2 none "$1"
mkdir "$1/$2"
echo 0 >"$1/$2/cgroup.procs"
umount "$1"
shift 2
exec "$@"
"""
REMOVE_CGROUP = """\
mount -t cgroup2 none "$1" && [ -d "$1/$2" ] || exit 0
find "$1/$2" -depth -type d -exec rmdir {} +
"""
BOOT = f"""\
mount -t cgroup2 none /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec env -i container=tests SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units SYSTEMD_GENERATOR_PATH=/nonexistent \
    {SYSTEMD} --system --unit=boot.target --log-target=journal --show-status=no
"""
NAMESPACES = ["unshare", "--mount", "--mount-proc", "--pid", "--ipc", "--cgroup", "--fork", "--kill-child"]


@dataclass(frozen=True)
class Host:
    """A booted host. `pid` is its systemd's."""

    etc: Path
    pid: int

    def run(self, *command: str) -> str:
        """Run a command on the host to its end; its output. It must succeed."""
        return run(["nsenter", "--mount", "--uts", "--pid", f"--target={self.pid}", *command]).decode()

    def log(self, **fields: str) -> list[dict[str, str]]:
        """What the journal has whose fields are, from end to end, these regular expressions."""
        entries = map(json.loads, self.run("journalctl", "--output=json", "--quiet", "--all").splitlines())
        return [
            entry
            for entry in entries
            if all(re.fullmatch(pattern, str(entry.get(name, ""))) for name, pattern in fields.items())
        ]

    def wait_for_log(self, **fields: str) -> dict[str, str]:
        """The first of these entries, as soon as there is one."""
        wait_until(lambda: self.log(**fields), f"the journal has no {fields}")
        return self.log(**fields)[0]


@contextmanager
def booted(directory: Path, hostname: str) -> Iterator[Host]:
    """Boot a host without services, in less than a second."""
    need(SYSTEMD.exists(), str(SYSTEMD))
    need("\tcgroup2\n" in Path("/proc/filesystems").read_text(), "cgroup2")
    own = {"/etc": own_etc(directory / "etc", hostname), "/run": own_run(directory / "run")}
    own["/var/log"] = own_directory(directory / "log")
    if Path("/dev/kmsg").exists():
        own["/dev/kmsg"] = Path("/dev/null")
    cgroup = [str(own_directory(directory / "cgroup")), directory.name]
    boot = ["sh", "-ec", IN_OWN_CGROUP, "sh", *cgroup, *NAMESPACES, "sh", "-ec", BOOT]
    output = directory / "output"
    try:
        with running(World(files=own).command(boot), output=output) as process:
            wait_until(lambda: (directory / "run/systemd/private").exists() or process.poll() is not None, "no systemd")
            need(process.poll() is None, f"a systemd that boots in a namespace: {output.read_text()}")
            host = Host(directory / "etc", child_of(process.pid))
            try:
                assert host.run("systemctl", "is-system-running", "--wait") == "running\n"
                yield host
            finally:
                os.kill(host.pid, signal.SIGKILL)  # the kernel reaps all that it started first
                process.wait(PATIENCE)
    finally:
        run(["sh", "-ec", REMOVE_CGROUP, "sh", *cgroup], world=World(hostname))


def own_directory(place: Path) -> Path:
    place.mkdir()
    return place


def own_etc(etc: Path, hostname: str) -> Path:
    """A copy of this host's /etc without its units."""
    run(["cp", "--archive", "/etc", str(etc)])
    shutil.rmtree(etc / "systemd", ignore_errors=True)
    (etc / "systemd/system").mkdir(parents=True)
    (etc / "systemd/journald.conf").write_text("[Journal]\nStorage=volatile\nAudit=no\n")
    (etc / "hostname").write_text(f"{hostname}\n")
    return etc


def own_run(place: Path) -> Path:
    """A /run with the few units that a host needs."""
    (place / "units").mkdir(parents=True)
    for name in JOURNALD:
        shutil.copy(UNITS / name, place / "units")
    for name in TARGETS:
        (place / "units" / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (place / "units/boot.target").write_text(BOOT_TARGET)
    return place


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
