"""A question to an account source, asked in a process of its own.

A database driver takes up to 13 MB, and a session may last for a day: the process that relays it never imports one.
"""

import marshal

from ..descriptors import POLLIN, is_ready
from ..failures import Temporary, WrongCredentials
from ..interpreter import posix, signal
from .account import Account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SECONDS = 60.0
"""For all that one source is asked: LDAP_TIMEOUT and the like are for each of its servers and steps."""
MAX_MEMORY = 256 << 20
"""Bytes of address space, for the answer of a database that does not end."""
MAX_ANSWER = 1 << 20
CHUNK = 1 << 16
REFUSALS = {"WrongCredentials": WrongCredentials, "Temporary": Temporary}


def ask(question: "Callable[[], Account]") -> Account:
    """The answer to `question`. Raises WrongCredentials, Temporary."""
    child, reading = _begin(question)
    try:
        answer = _read(reading)
    except BaseException:
        posix.kill(child, 9)
        raise
    finally:
        posix.close(reading)
        posix.waitpid(child, 0)
    return _told(answer)


def _begin(question: "Callable[[], Account]") -> "tuple[int, int]":
    """The process that answers, and where its answer is to be read."""
    try:
        reading, writing = posix.pipe()
    except OSError as error:
        raise Temporary(f"no pipe to an account source: {error.strerror}") from None
    try:
        child = posix.fork()
    except OSError as error:
        posix.close(reading)
        posix.close(writing)
        raise Temporary(f"no process for an account source: {error.strerror}") from None
    if child == 0:
        posix.close(reading)
        _answer(question, writing)
    posix.close(writing)
    return child, reading


def _answer(question: "Callable[[], Account]", writing: int) -> None:
    """The child's part: it writes its answer and ends."""
    try:
        _bound()
        null = posix.open("/dev/null", posix.O_RDWR)
        for descriptor in (0, 1):  # the client's
            posix.dup2(null, descriptor)
        answer = marshal.dumps(_outcome(question))
        while answer:
            answer = answer[posix.write(writing, answer) :]
    finally:
        posix._exit(0)


def _bound() -> None:
    """The child outlives its parent, and takes memory, so far and no further."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard, MAX_MEMORY) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(SECONDS) + 1)


def _outcome(question: "Callable[[], Account]") -> "tuple[str, Any]":
    try:
        account = question()
    except (Temporary, WrongCredentials) as failure:
        return type(failure).__name__, str(failure)
    except Exception as error:
        return "Temporary", f"internal error in an account source: {type(error).__name__}"
    return "", {name: getattr(account, name) for name in Account.__slots__}


def _read(reading: int) -> bytes:
    answer = b""
    while is_ready(reading, POLLIN, SECONDS):
        data = posix.read(reading, CHUNK)
        if not data:
            return answer
        answer += data
        if len(answer) > MAX_ANSWER:
            raise Temporary(f"an account source gave over {MAX_ANSWER} bytes")
    raise Temporary(f"an account source did not answer within {SECONDS:.0f} s, whatever its own timeouts allow")


def _told(answer: bytes) -> Account:
    if not answer:
        raise Temporary("an account source's process ended without an answer: is memory limited (ulimit -v)?")
    kind, content = marshal.loads(answer)
    if kind:
        raise REFUSALS[kind](content)
    return Account(**content)
