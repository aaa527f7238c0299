"""What one proxy tells the next of its client: fields of IMAP's ID (RFC 2971) and of POP3's XCLIENT, named as Dovecot
names them. What is malformed is left out, on the way in and on the way out."""

from .events import Forwarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ID_NAMES = (
    b"x-originating-ip",
    b"x-originating-port",
    b"x-connected-ip",
    b"x-connected-port",
    b"x-session-id",
    b"x-proxy-ttl",
)
XCLIENT_NAMES = (b"ADDR", b"PORT", b"DESTADDR", b"DESTPORT", b"SESSION", b"TTL")
"""In the order of the arguments of Forwarded, the ttl last."""

ADDRESS = "0123456789abcdefABCDEF:."
MAX_ADDRESS = len("0000:0000:0000:0000:0000:ffff:255.255.255.255")
SESSION = bytes(set(range(0x21, 0x7F)) - set(b'"\\')).decode()
MAX_SESSION = 64
DIGITS = "0123456789"


def id_command(forwarded: Forwarded) -> bytes:
    """IMAP's, without tag and line end; b"" where there is nothing to tell."""
    fields = [b'"%b" "%b"' % field for field in _fields(forwarded, ID_NAMES)]
    return b"ID (" + b" ".join(fields) + b")" if fields else b""


def xclient_command(forwarded: Forwarded) -> bytes:
    """POP3's, without line end; b"" where there is nothing to tell."""
    fields = [b"%b=%b" % field for field in _fields(forwarded, XCLIENT_NAMES)]
    return b"XCLIENT " + b" ".join(fields) if fields else b""


def _fields(forwarded: Forwarded, names: "tuple[bytes, ...]") -> "list[tuple[bytes, bytes]]":
    ttl = "" if forwarded.ttl is None else str(forwarded.ttl)
    told = (forwarded.ip, forwarded.port, forwarded.local_ip, forwarded.local_port, forwarded.session, ttl)
    return [(name, value.encode()) for name, value in zip(names, well_formed(told), strict=True) if value]


def well_formed(told: "Iterable[str]") -> "list[str]":
    """Address, port, address, port, session and ttl; "" in place of each that is malformed."""
    ip, port, local_ip, local_port, session, ttl = told
    return [
        _made_of(ADDRESS, MAX_ADDRESS, ip),
        _number(1, 65535, port),
        _made_of(ADDRESS, MAX_ADDRESS, local_ip),
        _number(1, 65535, local_port),
        _made_of(SESSION, MAX_SESSION, session),
        _number(0, 255, ttl),
    ]


def _made_of(alphabet: str, limit: int, value: str) -> str:
    return "" if value.strip(alphabet) or len(value) > limit else value


def _number(lowest: int, highest: int, value: str) -> str:
    """`value` without leading zeros."""
    digits = _made_of(DIGITS, 5, value)
    return str(int(digits)) if digits and lowest <= int(digits) <= highest else ""
