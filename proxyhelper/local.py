"""Become the account's user and exec the local server: Courier's contract (COURIER.md, "Exec of the local server").

A Python parent leaves traces that a C server does not expect; none of them may survive the exec.
"""

import time

from . import privileges
from .descriptors import POLLIN, is_ready
from .failures import Disabled, Temporary
from .interpreter import posix, signal, socket, stat
from .log import SYSLOG
from .settings import INHERITED
from .text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .accounts.account import Account
    from .activation import Connection
    from .log import Log
    from .settings import Settings

ACTIVATION_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "PROXY_TLS_WRAP")
START_SECONDS = 30.0
"""For a child to become the account's user, enter its home and exec the local server."""
MAX_REPORT = 4096
ABOUT_TO_EXEC = b"."
"""What a child reports last, where all goes well."""
DIED = b"temporary the process for the local server was killed"
LOGGERS = (
    ("/usr/sbin/courierlogger", "-name={ident}", "-facility=mail"),
    ("/usr/bin/logger", "-t", "{ident}", "-p", "mail.info"),
)


class ExecFailed(Exception):
    """The local server could not be run, and this process is the account's user already: it can only end."""


def serve_beside(
    command: "list[str]", account: "Account", environment: "dict[str, str]", settings: "Settings", log: "Log"
) -> "tuple[int, int]":
    """As `_start`. The activator watches this process, which stays with the client's TLS, and as PROXY_USER from now
    on."""
    person = privileges.proxy_person(settings.proxy_user) if privileges.is_root() else None
    child, connected = _start(command, account, environment, settings, log)
    try:
        if person:
            privileges.assume(person)
            privileges.settle(person)
    except BaseException:
        posix.close(connected)  # the child sees its client gone
        raise
    return child, connected


def _start(
    command: "list[str]", account: "Account", environment: "dict[str, str]", settings: "Settings", log: "Log"
) -> "tuple[int, int]":
    """Run `command` as a child. Returns its process id, and the descriptor that is connected to its fd 0 and 1.

    Raises Disabled or Temporary."""
    try:
        ours, theirs = socket.socketpair()
        reading, writing = posix.pipe2(posix.O_CLOEXEC)
        child = posix.fork()
    except OSError as error:
        raise Temporary(f"cannot start the local server: {error.strerror}") from None
    if child == 0:
        _run_reporting(writing, theirs.fileno(), command, account, environment, settings, log)
    theirs.close()
    posix.close(writing)
    report = _read_report(reading)
    posix.close(reading)
    if report == ABOUT_TO_EXEC:
        return child, ours.detach()
    posix.kill(child, signal.SIGKILL)
    posix.waitpid(child, 0)
    ours.close()
    kind, _, reason = decode(report.removeprefix(ABOUT_TO_EXEC) or DIED).partition(" ")
    raise (Disabled if kind == Disabled.kind else Temporary)(reason)


def _read_report(reading: int) -> bytes:
    """What the child says until its exec closes the pipe, or its end does."""
    deadline = time.monotonic() + START_SECONDS
    report = b""
    while is_ready(reading, POLLIN, max(deadline - time.monotonic(), 0)):
        more = posix.read(reading, MAX_REPORT)
        if not more or len(report) > MAX_REPORT:
            return report
        report += more
    return b"temporary timed out on the way to the local server"


def _run_reporting(
    report: int,
    connection: int,
    command: "list[str]",
    account: "Account",
    environment: "dict[str, str]",
    settings: "Settings",
    log: "Log",
) -> "NoReturn":
    """In the child: `run`, or tell the parent why not."""
    try:
        posix.dup2(connection, 0)
        posix.dup2(connection, 1)
        run(command, account, environment, settings, log, report)
    except (Disabled, Temporary) as failure:
        posix.write(report, encode(f"{failure.kind} {failure}"))
    except ExecFailed as failure:
        posix.write(report, encode(f"temporary {failure}"))
    except BaseException as error:
        posix.write(report, encode(f"temporary {type(error).__name__} on the way to the local server"))
    finally:
        posix._exit(70)


def run(
    command: "list[str]",
    account: "Account",
    environment: "dict[str, str]",
    settings: "Settings",
    log: "Log",
    report: int = -1,
) -> "NoReturn":
    """Become the account's user and exec `command` with its mailbox.

    Raises Disabled or Temporary while this process is as it was, ExecFailed later, when of its descriptors 0, 1, 2 and
    `report` are left; never returns.
    """
    person = _person(account)
    if not command:
        raise Temporary("the mailbox is on this host, but no local server is given on the command line")
    directory = posix.getcwdb()
    root = privileges.assume(person) if privileges.is_root() else None
    try:
        _enter_home(account.home)
        check_executable(command[0])
    except Temporary:
        if root:
            privileges.resume_root(root)
        posix.chdir(directory)
        raise
    if root:
        privileges.settle(person)
    _clean_up(settings, log, report)
    arguments = _arguments(command, account, settings)
    if report >= 0:
        posix.write(report, ABOUT_TO_EXEC)
    try:
        posix.execve(command[0], arguments, {encode(name): encode(value) for name, value in environment.items()})
    except (OSError, ValueError) as error:  # ValueError: NUL in an argument or variable
        raise ExecFailed(f"cannot run {command[0]}: {error}") from None


def environment_for(
    account: "Account",
    told: "dict[str, str]",
    connection: "Connection",
    settings: "Settings",
    environment: "dict[str, str]",
) -> "dict[str, str]":
    """The local server's environment: the settings files, then our own environment, then what the login added.
    `told` is the dialogue's part."""
    result = {**settings.exported, **environment}
    for name in ACTIVATION_VARIABLES:
        result.pop(name, None)
    peer, local = connection.peer, connection.local
    result["TCPREMOTEIP"] = peer.ip or "unknown"  # Courier's servers exit at once without these two
    result["TCPREMOTEPORT"] = peer.port or "0"
    for name, value in (("TCPLOCALIP", local.ip), ("TCPLOCALPORT", local.port)):
        if value:
            result[name] = value
    if connection.secure:
        upper = settings.protocol.upper()
        result.update({f"{upper}_TLS": "1", f"{upper}_STARTTLS": "NO", f"{upper}_TLS_REQUIRED": "0"})
    if account.quota:
        result["MAILDIRQUOTA"] = account.quota
    return {**result, **told, "AUTHENTICATED": account.address, "OPTIONS": account.options_text()}


def _person(account: "Account") -> privileges.Person:
    if account.uid is None or account.gid is None:
        raise Temporary("the mailbox is on this host, but the account has no uid and gid")
    if account.uid == 0 or account.gid == 0:
        raise Disabled("the account's uid or gid is 0: no mailbox is served as root")
    if not privileges.is_root() and account.uid != posix.geteuid():
        raise Temporary(
            f"only root can become the account's uid {account.uid}, and this process runs as {posix.geteuid()}"
        )
    return privileges.Person(account.uid, account.gid, [group for group in account.groups if group] or [account.gid])


def _enter_home(home: str) -> None:
    if not home:
        raise Temporary("the mailbox is on this host, but the account has no home")
    try:
        posix.chdir(encode(home))
    except OSError as error:
        raise Temporary(f"cannot enter the account's home {home}: {error.strerror}") from None


def check_executable(server: str) -> None:
    if not server.startswith("/"):  # it would be looked for in the account's home
        raise Temporary(f"the local server {server} is not an absolute path")
    if not _is_file(server) or not posix.access(server, posix.X_OK, effective_ids=True):
        raise Temporary(f"the local server {server} is not a program that the account's user can run")


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(posix.stat(path).st_mode)
    except OSError:
        return False


def _arguments(command: "list[str]", account: "Account", settings: "Settings") -> "list[bytes]":
    """The last argument is the default maildir, and yields to the account's own."""
    *arguments, default = command if len(command) > 1 else [*command, settings.maildir]
    return [encode(argument) for argument in (*arguments, account.maildir or default)]


def _clean_up(settings: "Settings", log: "Log", report: int) -> None:
    """Undo what Python and the activator have done to this process. `report` closes by itself, at the exec."""
    if log.sink == SYSLOG:
        _log_through_pipe(log.ident)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if settings.umask != INHERITED:
        posix.umask(settings.umask)
    for descriptor in (0, 1, 2):
        posix.set_blocking(descriptor, True)
    for name in posix.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != report:
            _close(int(name))


def _close(descriptor: int) -> None:
    try:
        posix.close(descriptor)
    except OSError:
        pass  # the list's own descriptor


def _log_through_pipe(ident: str) -> None:
    """Make stderr a pipe to a logger: the local server writes its log lines there, and it was the connection."""
    logger = next((logger for logger in LOGGERS if posix.access(logger[0], posix.X_OK)), None)
    if logger is None:
        return
    reading, writing = posix.pipe()
    child = posix.fork()
    if child == 0:
        _become_logger([word.format(ident=ident) for word in logger], reading)
    posix.waitpid(child, 0)
    posix.dup2(writing, 2)
    posix.close(reading)
    posix.close(writing)


def _become_logger(command: "list[str]", reading: int) -> None:
    """Run the logger as nobody's child: a local server does not expect one."""
    try:
        if posix.fork() != 0:
            posix._exit(0)
        posix.dup2(reading, 0)
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 1)
        posix.dup2(null, 2)
        posix.closerange(3, 64)
        posix.chdir("/")
        posix.execve(command[0], command, {"PATH": "/usr/bin:/bin"})
    finally:
        posix._exit(127)
