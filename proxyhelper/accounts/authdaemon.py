"""Accounts of Courier's own daemon, authdaemond, asked through its socket: one request a connection.

A request is a line `PRE . service name`, or `AUTH bytes` and lines of so many bytes; the answer is lines `NAME=value`
in any order up to a line `.`, or the line `FAIL`. authdaemond says FAIL where a database of its own is down, too. It
has applied DEFAULTOPTIONS already.
"""

import time

from ..failures import Temporary, WrongCredentials
from ..interpreter import posix, socket
from ..text import decode, encode
from .account import MAX_ID, Account, is_id, parse_options
from .proofs import Password

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..settings import Settings
    from .proofs import Proof

END, REFUSED = b".", b"FAIL"
MAX_WORDS = 4096
"""Bytes, in all. authdaemond takes no request over 8192, in base64 or not."""

MAX_ANSWER = 1 << 16
CHUNK = 1 << 14
NOT_IN_A_LINE = frozenset(b"\r\n\0")
COLUMNS = 6


def find(settings: "Settings", service: str, name: str) -> Account:
    """The account `name`. Raises WrongCredentials where authdaemond finds none, Temporary where it does not say."""
    if name[:1] in ("", " "):  # blanks before a name count for nothing there
        raise WrongCredentials("no such account")
    words = _sendable(encode(service), encode(name))
    return _ask(settings, b"PRE . %b %b\n" % words, "no such account")


def authenticate(settings: "Settings", service: str, name: str, proof: "Proof") -> Account:
    """The account of `name`, if authdaemond accepts the proof. Raises WrongCredentials, Temporary."""
    user = encode(name)
    if isinstance(proof, Password):
        said = _sendable(encode(service), b"login", user, proof.password)
    else:
        digest = proof.response.rpartition(b" ")[2]  # it is not of the name, which has its domain now
        response = user + b" " + digest
        _sendable(response)
        said = encode(service), encode(proof.mechanism.lower()), _base64(proof.challenge), _base64(response)
    lines = b"".join(line + b"\n" for line in said)
    return _ask(settings, b"AUTH %d\n%b" % (len(lines), lines), "no such account, or not its password")


def accounts(settings: "Settings") -> "Iterator[Account]":
    """Every account that authdaemond's modules list: name, uid, gid, home, maildir, options. Raises Temporary."""
    for line in _answer(settings, b"ENUMERATE\n", is_listing=True):
        if not line or line.startswith(b"#"):  # which module it is that lists them
            continue
        values = decode(line).split("\t")
        if len(values) != COLUMNS:
            raise Temporary(f"authdaemond lists accounts in {len(values)} columns, not {COLUMNS}")
        name, uid, gid, home, maildir, options = values
        yield Account(
            name,
            b"",
            uid=_number("uid", uid),
            gid=_number("gid", gid),
            home=home,
            maildir=maildir,
            options=parse_options(options, ""),
        )


def _ask(settings: "Settings", request: bytes, refusal: str) -> Account:
    """The account that authdaemond answers with. Raises WrongCredentials, with `refusal`, and Temporary."""
    lines = list(_answer(settings, request))
    if lines == [REFUSED]:
        raise WrongCredentials(f"authdaemond: {refusal}")
    fields = _fields(lines)
    if not fields.get("ADDRESS"):
        raise Temporary("authdaemond answers without an ADDRESS")
    uid, gid, groups = _ids(fields)
    return Account(
        fields["ADDRESS"],
        encode(fields.get("PASSWD", "")),
        cleartext=encode(fields.get("PASSWD2", "")),
        uid=uid,
        gid=gid,
        groups=groups,
        home=fields.get("HOME", ""),
        maildir=fields.get("MAILDIR", ""),
        quota=fields.get("QUOTA", ""),
        options=parse_options(fields.get("OPTIONS", ""), ""),
    )


def _fields(lines: "list[bytes]") -> "dict[str, str]":
    """What the lines say. Raises Temporary for others than NAME=value, and where one value may have been two lines."""
    fields: dict[str, str] = {}
    for line in lines:
        name, equals, value = decode(line).partition("=")
        if not equals or name in fields or not NOT_IN_A_LINE.isdisjoint(line):
            which = repr(name[:20]) if equals else "without a name"  # it may be the rest of a password
            raise Temporary(f"authdaemond answers with a line {which} that is none, or is there twice")
        fields[name] = value
    return fields


def _ids(fields: "dict[str, str]") -> "tuple[int | None, int | None, list[int] | None]":
    """uid, gid and groups; USERNAME goes before UID, as with Courier. Raises Temporary."""
    uid, gid, user = (
        _number("UID", fields.get("UID", "")),
        _number("GID", fields.get("GID", "")),
        fields.get("USERNAME"),
    )
    if not user:
        return uid, gid, None
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise Temporary(f"authdaemond gives USERNAME={user}, who is not a user of this host") from None
    gid = entry.pw_gid if gid is None else gid
    return entry.pw_uid, gid, posix.getgrouplist(user, gid)


def _number(name: str, value: str) -> "int | None":
    if not value:
        return None
    if not is_id(value):
        raise Temporary(f"authdaemond gives {name}={value!r}, which is not a number from 0 to {MAX_ID}")
    return int(value)


def _sendable(*words: bytes) -> "tuple[bytes, ...]":
    """The words, if they can stand in the lines of a request. Raises WrongCredentials."""
    joined = b" ".join(words)
    if not NOT_IN_A_LINE.isdisjoint(joined) or len(joined) > MAX_WORDS:
        raise WrongCredentials("authdaemond takes no name or password that is so long, or has CR, LF or NUL in it")
    return words


def _base64(data: bytes) -> bytes:
    from binascii import b2a_base64

    return b2a_base64(data, newline=False)


def _answer(settings: "Settings", request: bytes, *, is_listing: bool = False) -> "Iterator[bytes]":
    """The lines of the answer up to `.`, or `FAIL`. Raises Temporary.

    Bounds of time and size are for the whole answer, or for each piece of a listing."""
    from struct import pack

    path, seconds = f"{settings.authdaemon}/socket", settings.account_timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        deadline = time.monotonic() + seconds
        # Not by settimeout: without blocking, a queue that is full is an error at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, pack("ll", seconds, 0))
        connection.connect(path)
        connection.settimeout(seconds)
        connection.sendall(request)
        pending, size = b"", 0
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            data = connection.recv(CHUNK)
            size += len(data)
            if not data or size > MAX_ANSWER:
                what = (
                    "closes the connection instead of an answer"
                    if not data
                    else f"answers with over {MAX_ANSWER} bytes"
                )
                raise Temporary(f"authdaemond at {path} {what}: its log says why")
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if line == END:
                    return
                yield line
                if line == REFUSED:
                    return
            if is_listing:
                deadline, size = time.monotonic() + seconds, len(pending)
    except TimeoutError:
        raise Temporary(f"authdaemond at {path} does not answer within {seconds} s") from None
    except OSError as error:
        reason = error.strerror or error
        raise Temporary(
            f"cannot ask authdaemond at {path}: {reason}. Is it running? authdaemonvar is its place"
        ) from None
    finally:
        connection.close()
