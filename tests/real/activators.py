"""Real activators. Each starts one that listens and runs argv for every connection, and yields its Listener.

with ACTIVATORS["xinetd"](Service(directory, "127.0.0.1", 143, argv, environment)) as listener: ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from support import ADDRESS_SPACE_KB
from support import command as helper

from . import courier
from .servers import PORTS
from .world import HERE, LogFile, World, is_listening, program, running, syslog, wait_until


@dataclass(frozen=True)
class Service:
    """What an activator is to run, where, and in which directory it may put files."""

    directory: Path
    address: str
    port: int
    argv: Sequence[str]
    environment: Mapping[str, str]
    world: World = HERE


@dataclass(frozen=True)
class Listener:
    """An activator that listens, and what its programs have logged."""

    address: str
    port: int
    log: LogFile
    pid: int


Activator = Callable[[Service], AbstractContextManager[Listener]]


@contextmanager
def listening(
    directory: Path, address: str, port: int, command: Sequence[str], environment: Mapping[str, str], world: World
) -> Iterator[Listener]:
    """Run an activator whose programs write their log to its own stderr, a file."""
    log = directory / "stderr"
    with running(command, environment=environment, world=world, output=log) as process:
        wait_until(lambda: is_listening(address, port) or process.poll() is not None, f"{command[0]} does not listen")
        assert process.poll() is None, f"{command[0]} has ended: {log.read_text()}"
        yield Listener(address, port, LogFile(log), process.pid)


def logging_to_stderr(service: Service, command: Sequence[str]) -> AbstractContextManager[Listener]:
    """Run an activator with its stderr in a file."""
    of_service = (service.directory, service.address, service.port)
    return listening(*of_service, command, service.environment, service.world)


@contextmanager
def logging_to_syslog(service: Service, command: Sequence[str]) -> Iterator[Listener]:
    """Run an activator in a world that has a syslog daemon."""
    with syslog(service.directory) as log:
        service = replace(service, world=replace(service.world, log_socket=log.socket))
        with logging_to_stderr(service, command) as listener:
            yield replace(listener, log=log)


def couriertcpd(service: Service) -> AbstractContextManager[Listener]:
    """Courier's own, with its stderr in a file."""
    return logging_to_stderr(service, courier.couriertcpd(service.address, service.port, service.argv))


def couriertcpd_with_courierlogger(service: Service) -> AbstractContextManager[Listener]:
    """couriertcpd as Courier's start script runs it: courierlogger makes syslog of its stderr."""
    title = {143: "imapd", 110: "pop3d"}[service.port]
    command = courier.couriertcpd(service.address, service.port, service.argv)
    return logging_to_syslog(service, [program("courierlogger"), f"-name={title}", *command])


def tcpserver(service: Service) -> AbstractContextManager[Listener]:
    """The one of ucspi-tcp, without its look-ups of names."""
    options = ["-H", "-R", "-l", "0", "-c", "1000", service.address, str(service.port)]
    return logging_to_stderr(service, [program("tcpserver"), *options, *service.argv])


def systemd_socket_activate(service: Service) -> AbstractContextManager[Listener]:
    """systemd's tool, which tells its programs nothing about the connection."""
    settings = [f"--setenv={name}={value}" for name, value in service.environment.items()]
    options = ["--accept", "--inetd", f"--listen={service.address}:{service.port}", *settings]
    return logging_to_stderr(service, [program("systemd-socket-activate"), *options, *service.argv])


XINETD = """\
service mail
{{
    type = UNLISTED
    socket_type = stream
    protocol = tcp
    flags = NAMEINARGS
    wait = no
    user = root
    bind = {address}
    port = {port}
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 10000 1
    server = {server}
    server_args = {arguments}
}}
"""


def xinetd(service: Service) -> AbstractContextManager[Listener]:
    """xinetd with wait = no: stderr is the connection, so that the log can only be syslog.

    Without NAMEINARGS the program's own name has no directory, and a Python outside /usr does not find its library.
    """
    file = service.directory / "xinetd.conf"
    what = {"server": service.argv[0], "arguments": " ".join(service.argv)}
    file.write_text(XINETD.format(address=service.address, port=service.port, **what))
    files = ["-f", str(file), "-filelog", f"{file}.log", "-pidfile", f"{file}.pid"]
    return logging_to_syslog(service, [program("xinetd"), "-dontfork", *files])


def as_systemd_does(service: Service, stderr: str) -> AbstractContextManager[Listener]:
    """What systemd does with Accept=yes; stderr is "journal", "file" or "connection"."""
    script = str(Path(__file__).with_name("accept_yes.py"))
    command = [sys.executable, "-I", "-S", script, stderr, service.address, str(service.port), *service.argv]
    return (logging_to_syslog if stderr == "connection" else logging_to_stderr)(service, command)


ACTIVATORS: dict[str, Activator] = {
    "couriertcpd": couriertcpd,
    "couriertcpd, courierlogger": couriertcpd_with_courierlogger,
    "tcpserver": tcpserver,
    "xinetd": xinetd,
    "systemd-socket-activate": systemd_socket_activate,
    "systemd": partial(as_systemd_does, stderr="journal"),
    "systemd, StandardError=file": partial(as_systemd_does, stderr="file"),
    "systemd, StandardError=inherit": partial(as_systemd_does, stderr="connection"),
}


@contextmanager
def front(
    activator: Activator,
    directory: Path,
    address: str,
    environment: Mapping[str, str],
    world: World = HERE,
    local_server: Callable[[str], Sequence[str]] = courier.local_server,
    ports: Mapping[str, int] = PORTS,
) -> Iterator[dict[str, Listener]]:
    """The helper on a port for each protocol, with no more memory than Courier's start script allows."""
    world = replace(world, address_space=ADDRESS_SPACE_KB)
    with ExitStack() as listeners:
        started = {}
        for protocol, port in ports.items():
            own = directory / protocol
            own.mkdir(parents=True)
            service = Service(own, address, port, helper(protocol, *local_server(protocol)), environment, world)
            started[protocol] = listeners.enter_context(activator(service))
        yield started
