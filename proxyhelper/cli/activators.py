"""The entries that start the helper, found in the files of xinetd, inetd and systemd on this host.

Files that cannot be read, and what is in them beside such entries, are passed over: other programs' files are none of
our business.
"""

import re
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..settings import is_true

XINETD, INETD, SYSTEMD = "xinetd", "inetd", "systemd"

PLACES = (
    "/etc/xinetd.conf",
    "/etc/xinetd.d",
    "/etc/inetd.conf",
    "/etc/systemd/system",  # systemd's in their order of precedence
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)

ANY_ADDRESS = ("", "0", "0.0.0.0", "::", "*")
HELPERS = {"proxyhelper-imap": "imap", "proxyhelper-pop3": "pop3"}
SOCKET_PORT = re.compile(r"(?:(\S*):)?(\d{1,5})")  # systemd: 143, 192.0.2.1:143, [::1]:143
COURIERTCPD_PORT = re.compile(r"(?:[\w.:]+[.])?(\d{1,5})(?:,\S*)?")  # 143, 192.0.2.1.143, or a list of these


@dataclass(frozen=True)
class Entry:
    """One way in which this host starts the helper.

    program       interpreter, switches and helper as written, without what runs them (couriertcpd, courierlogger)
    local_server  the arguments behind the helper; [] for none
    port          where clients come to, as far as the files say it
    address       likewise, "" for every address of this host
    waits         the helper would be given the listening socket (xinetd's `wait = yes`)
    tls           TLS from the first byte, by the helper itself or by couriertls in front of it
    """

    file: str
    line: int
    activator: str
    protocol: str
    program: list[str]
    local_server: list[str]
    user: str = "root"
    port: "int | None" = None
    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""
    waits: bool = False
    tls: bool = False

    @property
    def service(self) -> str:
        """By its name in services(5)."""
        return self.protocol + "s" * self.tls

    @property
    def wraps(self) -> bool:
        """Whether the helper itself does TLS from the first byte."""
        return _wraps(self.environment)


def find(places: Sequence[str] = PLACES) -> list[Entry]:
    """The entries in these files and directories. A file is inetd's by its name, systemd's by its suffix, or xinetd's;
    a directory is xinetd's by its name, or systemd's."""
    entries: list[Entry] = []
    units: list[Path] = []
    for place in map(Path, places):
        if place.name == "inetd.conf":
            entries += _inetd(place)
        elif place.suffix == ".service":
            entries += _service([place.parent], place.name)
        elif place.is_file() or place.name.startswith("xinetd"):
            entries += _xinetd([place] if place.is_file() else _directory(place, r"[^.]*[^.~]"))
        elif place.resolve() not in units:
            units.append(place.resolve())
    return entries + _systemd(units)


@dataclass(frozen=True)
class Value:
    """What a line assigns, and where the line is."""

    text: str
    file: Path
    line: int


Attributes = dict[str, list[Value]]
NOTHING = Value("", Path(), 0)


def _entry(
    value: Value,
    argv: Sequence[str],
    activator: str,
    user: str,
    address: str = "",
    port: "int | None" = None,
    waits: bool = False,
    environment: Mapping[str, str] = {},
) -> Iterator[Entry]:
    """The entry that the command makes, if the helper is in it. `value` is its line; "" as user is root."""
    at = next((at for at, word in enumerate(argv) if Path(word).name in HELPERS), None)
    if at is None:
        return
    start = _start(argv, at)
    yield Entry(
        file=str(value.file),
        line=value.line,
        activator=activator,
        protocol=HELPERS[Path(argv[at]).name],
        program=list(argv[start : at + 1]),
        local_server=list(argv[at + 1 :]),
        user=user or "root",
        address=_couriertcpd_address(argv[:start]) or ("" if address in ANY_ADDRESS else address),
        port=_couriertcpd_port(argv[:start]) or port,
        waits=waits,
        environment=dict(environment),
        tls=_wraps(environment) or any(Path(word).name == "couriertls" for word in argv[:start]),
    )


def _wraps(environment: Mapping[str, str]) -> bool:
    return is_true(environment.get("PROXY_TLS_WRAP", ""))


def _start(argv: Sequence[str], helper: int) -> int:
    """Where the interpreter stands that runs argv[helper], or `helper` where none does."""
    before = helper - 1
    while before > 0 and argv[before].startswith("-"):
        before -= 1
    return before if before >= 0 and Path(argv[before]).name.startswith(("python", "pypy")) else helper


def _couriertcpd_address(runner: Sequence[str]) -> str:
    addresses = [word.partition("=")[2] for word in runner if word.startswith("-address=")]
    return addresses[-1] if addresses and addresses[-1] not in ANY_ADDRESS else ""


def _couriertcpd_port(runner: Sequence[str]) -> "int | None":
    """The PORT in `couriertcpd [-option…] PORT`, which runs the helper, or what runs the helper."""
    at = next((at for at, word in enumerate(runner) if Path(word).name == "couriertcpd"), len(runner))
    port = COURIERTCPD_PORT.fullmatch(next((word for word in runner[at + 1 :] if not word.startswith("-")), ""))
    return int(port[1]) if port else None


def _lines(file: Path) -> Iterator[Value]:
    """The lines that are neither empty nor comments."""
    try:
        text = file.read_text(errors="surrogateescape") if file.is_file() else ""
    except OSError:
        return
    for number, line in enumerate(text.split("\n"), 1):
        if (line := line.strip()) and not line.startswith("#"):
            yield Value(line, file, number)


def _directory(place: Path, names: str) -> list[Path]:
    try:
        return sorted(file for file in place.iterdir() if re.fullmatch(names, file.name))
    except OSError:
        return []


# xinetd and inetd


def _xinetd(files: Sequence[Path]) -> Iterator[Entry]:
    for file in files:
        for name, service in _services(file):
            flags = joined(service, "flags").split()
            if last(service, "disable").text == "yes" or "DISABLE" in flags:
                continue
            server, arguments = last(service, "server"), joined(service, "server_args").split()
            line = last(service, "server_args") if arguments else server
            if "NAMEINARGS" in flags:
                del arguments[:1]
            yield from _entry(
                line,
                [server.text, *arguments],
                XINETD,
                last(service, "user").text,
                last(service, "bind").text or last(service, "interface").text,
                port_number(last(service, "port").text or name),
                last(service, "wait").text == "yes",
                assignments(joined(service, "env").split()),
            )


def _services(file: Path) -> Iterator[tuple[str, Attributes]]:
    """Names and attributes of the file's services."""
    name, attributes = "", Attributes()
    for value in _lines(file):
        if header := re.fullmatch(r"service\s+(\S+)", value.text):
            name, attributes = header[1], Attributes()
        elif value.text == "}" and name:
            yield name, attributes
            name = ""
        elif assignment := re.fullmatch(r"(\w+)\s*([+-]?=)\s*(.*)", value.text):
            attribute, operator, text = assignment.groups()
            if operator == "=":
                attributes.pop(attribute, None)
            if operator != "-=":
                attributes.setdefault(attribute, []).append(Value(text, file, value.line))


def _inetd(file: Path) -> Iterator[Entry]:
    """Lines `[address:]service stream tcp nowait[.max] user[:group] server argv0 argument…`."""
    for value in _lines(file):
        fields = value.text.split()
        if len(fields) >= 6:
            service, wait, user, server, arguments = fields[0], fields[3], fields[4], fields[5], fields[7:]
            address, _, name = service.rpartition(":")
            waits = wait.partition(".")[0] == "wait"
            user = re.split("[.:]", user)[0]
            yield from _entry(value, [server, *arguments], INETD, user, address, port_number(name), waits)


def port_number(service: str) -> "int | None":
    """The port of a service given by name or number."""
    if service.isascii() and service.isdigit():
        return int(service)
    try:
        return socket.getservbyname(service, "tcp")
    except (OSError, ValueError):
        return None


# systemd


def _systemd(directories: Sequence[Path]) -> list[Entry]:
    names = {file.name for directory in directories for file in _directory(directory, r"[^.].*\.service")}
    return [entry for name in sorted(names) for entry in _service(directories, name)]


def _service(directories: Sequence[Path], name: str) -> Iterator[Entry]:
    unit = _unit(directories, name)
    user, (address, port) = last(unit, "User").text, _socket(directories, name)
    environment = assignments(split(joined(unit, "Environment")))
    for command in unit.get("ExecStart", []):
        prefix = "".join(re.findall(r"^[-@:+!|]*", command.text))
        argv = [word.replace("%%", "%") for word in split(command.text[len(prefix) :])]
        if "@" in prefix:
            del argv[1:2]
        yield from _entry(command, argv, SYSTEMD, user, address, port, environment=environment)


def _socket(directories: Sequence[Path], service: str) -> "tuple[str, int | None]":
    """Address and port of the socket that starts instances of the service."""
    streams = _unit(directories, service.replace("@.service", ".socket")).get("ListenStream", [])
    found = next(filter(None, (SOCKET_PORT.fullmatch(stream.text) for stream in streams)), None)
    return ((found[1] or "").strip("[]"), int(found[2])) if found else ("", None)


def _unit(directories: Sequence[Path], name: str) -> Attributes:
    """What the unit's file and drop-ins assign; a file hides those of its name in directories further down."""
    drop_ins = {}
    for directory in reversed(directories):
        drop_ins.update({file.name: file for file in _directory(directory / f"{name}.d", r"[^.].*\.conf")})
    main = next((file for directory in directories if (file := directory / name).exists()), None)
    attributes = Attributes()
    for file in [*([main] if main else []), *(drop_ins[name] for name in sorted(drop_ins))]:
        for value in _continued(_lines(file)):
            attribute, _, text = (part.strip() for part in value.text.partition("="))
            if not text:
                attributes.pop(attribute, None)
            else:
                attributes.setdefault(attribute, []).append(Value(text, file, value.line))
    return attributes


def _continued(lines: Iterator[Value]) -> Iterator[Value]:
    r"""Lines with those that continue them (\ at the end), without `;` comments."""
    begun: "Value | None" = None
    for value in lines:
        if value.text.startswith(";"):
            continue
        text = f"{begun.text[:-1]} {value.text}" if begun else value.text
        begun = Value(text, value.file, begun.line if begun else value.line)
        if not text.endswith("\\"):
            yield begun
            begun = None


# What lines assign


def last(attributes: Attributes, name: str) -> Value:
    return attributes.get(name, [NOTHING])[-1]


def joined(attributes: Attributes, name: str) -> str:
    return " ".join(value.text for value in attributes.get(name, []))


def split(text: str) -> list[str]:
    """Words, in quotes where they hold blanks."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def assignments(settings: Sequence[str]) -> dict[str, str]:
    return {name: value for name, equals, value in (setting.partition("=") for setting in settings) if equals}
