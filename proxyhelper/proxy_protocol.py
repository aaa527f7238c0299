"""HAProxy's PROXY protocol (proxy-protocol.txt, section 2), versions 1 and 2: no sockets, bytes in, a header out.

A header stands in front of everything else on a connection and says whose connection a balancer passes on.
"""

from .activation import MAPPED, Address, plain_ip
from .interpreter import socket
from .text import decode

TEXT = b"PROXY "
BINARY = b"\r\n\r\n\0\r\nQUIT\n"
BEGINNINGS = (TEXT + b"TCP4 ", TEXT + b"TCP6 ", TEXT + b"UNKNOWN ", TEXT + b"UNKNOWN\r\n", BINARY)

MAX_BEGINNING = max(len(beginning) for beginning in BEGINNINGS)

MAX_LINE = 107
"""Bytes of a header of version 1, its CRLF included."""

FIXED = 16
"""Bytes of a header of version 2 in front of its addresses: signature, version and command, family, length."""

MAX_BLOCK = 4096
"""Bytes of addresses and TLVs (type, length, value) in a header of version 2: a bound of ours, 65535 is the protocol's.
Balancers send a few hundred."""

TEXT_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
BINARY_FAMILIES = {0x11: (socket.AF_INET, 4), 0x21: (socket.AF_INET6, 16)}
"""The families of TCP, and the bytes of an address there."""

LOCAL, PROXY = 0x20, 0x21
"""Version 2 and a command."""


class Malformed(Exception):
    """Bytes that are no header, or none that is allowed. The text says of the header what is wrong; what it quotes
    stands there as it came. Of a client that begins with something else it quotes no byte behind the first that does
    not fit: a password may follow."""


class Header:
    """Whose connection this is: the client, and the address that it connected to. Both None where the sender speaks for
    itself (LOCAL), or of something else than TCP: then the connection's own addresses are the ones."""

    __slots__ = ("local", "peer")

    def __init__(self, peer: "Address | None" = None, local: "Address | None" = None) -> None:
        self.peer = peer
        self.local = local


class Reader:
    """Reads one header, in whatever pieces it comes."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> "tuple[int, Header | None]":
        """How many bytes of `data` belong to the header, and the header where they complete it.

        Raises Malformed, at the first byte that no header has there."""
        seen = self._held + data
        _check_beginning(seen)
        is_text = seen.startswith(TEXT)
        size = _text_size(seen) if is_text else _binary_size(seen)
        if not size or len(seen) < size:
            self._held = seen
            return len(data), None
        return size - len(self._held), _text_header(seen[:size]) if is_text else _binary_header(seen[:size])


def version2(peer: Address, local: Address) -> bytes:
    """The header that tells a backend of a client at `peer` who connected to `local`; LOCAL where either is unknown."""
    is_ipv6 = ":" in peer.ip + local.ip
    code = 0x21 if is_ipv6 else 0x11
    family, _ = BINARY_FAMILIES[code]
    try:
        ips = [socket.inet_pton(family, _mapped(end.ip) if is_ipv6 else end.ip) for end in (peer, local)]
        ports = [int(end.port or 0).to_bytes(2, "big") for end in (peer, local)]
    except (OSError, ValueError, OverflowError):
        return _fixed(LOCAL, 0, 0)
    block = b"".join(ips + ports)
    return _fixed(PROXY, code, len(block)) + block


def _fixed(command: int, family: int, length: int) -> bytes:
    return BINARY + bytes((command, family)) + length.to_bytes(2, "big")


def _mapped(ip: str) -> str:
    return ip if ":" in ip else MAPPED + ip


def _check_beginning(seen: bytes) -> None:
    for size in range(1, 1 + min(len(seen), MAX_BEGINNING)):
        start = seen[:size]
        if not any(start.startswith(beginning) or beginning.startswith(start) for beginning in BEGINNINGS):
            raise Malformed(f"it begins with '{decode(start)}'")


def _text_size(seen: bytes) -> int:
    """Bytes of the line that `seen` begins with; 0 while its end is not seen."""
    size = seen.find(b"\n", 0, MAX_LINE) + 1
    if not size and len(seen) >= MAX_LINE:
        raise Malformed(f"its line is longer than {MAX_LINE} bytes")
    if size and not seen[:size].endswith(b"\r\n"):
        raise Malformed("its line ends with LF, not CRLF")
    return size


def _text_header(line: bytes) -> Header:
    name, *fields = line[len(TEXT) : -2].split(b" ")
    if name == b"UNKNOWN":
        return Header()
    if len(fields) != 4:
        raise Malformed(f"it has {len(fields)} fields behind {decode(name)}, not two addresses and two ports")
    family = TEXT_FAMILIES[name]
    peer_ip, local_ip, peer_port, local_port = fields
    return Header(
        _address(family, _text_ip(family, peer_ip), _text_port(peer_port)),
        _address(family, _text_ip(family, local_ip), _text_port(local_port)),
    )


def _text_ip(family: int, field: bytes) -> bytes:
    try:
        return socket.inet_pton(family, field.decode("ascii"))
    except (OSError, ValueError):
        version = 4 if family == socket.AF_INET else 6
        raise Malformed(f"'{decode(field)}' is no IPv{version} address") from None


def _text_port(field: bytes) -> int:
    """0 to 65535, without leading zeros."""
    if not (field.isdigit() and b"%d" % int(field) == field and int(field) < 65536):
        raise Malformed(f"'{decode(field)}' is no port")
    return int(field)


def _binary_size(seen: bytes) -> int:
    """Bytes of the header that `seen` begins with; 0 while its fixed part is not seen."""
    command, family, length = seen[12:13], seen[13:14], seen[14:FIXED]
    if command and command[0] not in (LOCAL, PROXY):
        raise Malformed(f"its version and command are 0x{command.hex()}")
    if family and command[0] == PROXY and (family[0] >> 4 > 3 or family[0] & 15 > 2):
        raise Malformed(f"its address family and protocol are 0x{family.hex()}")
    if len(length) < 2:
        return 0
    size = int.from_bytes(length, "big")
    if size > MAX_BLOCK:
        raise Malformed(f"its addresses and TLVs are {size} bytes, over {MAX_BLOCK}")
    return FIXED + size


def _binary_header(header: bytes) -> Header:
    command, code = header[12:14]
    if command == LOCAL or code not in BINARY_FAMILIES:
        return Header()
    family, size = BINARY_FAMILIES[code]
    block = header[FIXED:]
    if len(block) < 2 * size + 4:
        raise Malformed(f"its addresses are {len(block)} bytes, not {2 * size + 4}")
    peer_ip, local_ip, ports = block[:size], block[size : 2 * size], block[2 * size :]
    return Header(
        _address(family, peer_ip, int.from_bytes(ports[:2], "big")),
        _address(family, local_ip, int.from_bytes(ports[2:4], "big")),
    )


def _address(family: int, packed: bytes, port: int) -> Address:
    return Address(plain_ip(socket.inet_ntop(family, packed)), port)
