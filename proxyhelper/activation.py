"""What the activator left us: the connection on fd 0 and 1, and who is at its other end.

xinetd, inetd, systemd (`Accept=yes`) and couriertcpd leave a socket; couriertls, stunnel and scripts may leave a
socketpair or two pipes, and say in the environment who the client is.
"""

from .descriptors import is_socket, same_file
from .interpreter import posix, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from .tls import InClear

INTERNET = (socket.AF_INET, socket.AF_INET6)
MAPPED = "::ffff:"
TOLD_PEERS = (("TCPREMOTEIP", "TCPREMOTEPORT"), ("REMOTE_ADDR", "REMOTE_PORT"), ("REMOTE_HOST", "REMOTE_PORT"))


class NotAConnection(Exception):
    """fd 0 is a listening socket, or nothing at all. The text says what to do."""


class Address:
    """An Internet address and port; ip and port are "" where nobody told them."""

    __slots__ = ("ip", "port")

    def __init__(self, ip: str = "", port: "int | str" = "") -> None:
        self.ip = ip
        self.port = str(port)

    def log_form(self) -> str:
        """As Courier logs it: IPv4 mapped into IPv6."""
        if not self.ip:
            return "unknown"
        return self.ip if ":" in self.ip else MAPPED + self.ip


def client_end() -> "InClear":
    """The client's end, on fd 0 and 1."""
    if is_socket(0) and same_file(0, 1):
        from .ends import SocketEnd

        return SocketEnd(socket.socket(fileno=posix.dup(0)))  # a copy: fd 0 itself outlives the object
    from .pipes import PipeEnd

    return PipeEnd()


class Connection:
    """The connection on fd 0 and 1: the client's end (`peer`), and ours as the client knows it (`local`); both may be
    far away where somebody trusted stands in between. `served`: where this service itself can be reached, what the
    kernel says first. `secure`: behind TLS."""

    __slots__ = ("local", "peer", "secure", "served")

    def __init__(self, peer: Address, local: Address, secure: bool = False) -> None:
        self.peer = peer
        self.local = local
        self.served = [local]
        self.secure = secure


def inspect(environment: "Mapping[str, str]", is_passed_on: bool = False) -> Connection:
    """Look at fd 0. `is_passed_on`: somebody on this host has done the client's TLS. Raises NotAConnection."""
    try:
        client_is_socket = is_socket(0)
        posix.fstat(1)
    except OSError:
        raise NotAConnection(
            "fd 0 and 1 are not open: start this program from xinetd, systemd or couriertcpd"
        ) from None
    peer = local = None
    if client_is_socket:
        client = socket.socket(fileno=0)
        try:
            peer, local = _ends(client)
        finally:
            client.detach()
    told = _told_peer(environment)
    if is_passed_on and told.ip and peer and _is_loopback(peer):
        peer = local = None  # stunnel's exec has the client, and this is the connection to stunnel
    return Connection(peer or told, local or _told_local(environment))


def _is_loopback(end: "Address") -> bool:
    return end.ip.startswith("127.") or end.ip == "::1"


def _ends(client: socket.socket) -> "tuple[Address | None, Address | None]":
    if client.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise NotAConnection(
            "fd 0 is a listening socket: use wait = no (xinetd), nowait (inetd) or Accept=yes (systemd)"
        )
    if client.family not in INTERNET:
        return None, None
    return _name_of(client.getpeername), _name_of(client.getsockname)


def _name_of(ask: "Callable[[], Any]") -> "Address | None":
    try:
        ip, port = ask()[:2]
    except OSError:  # the client has gone already
        return None
    return Address(plain_ip(ip), port)


def plain_ip(ip: str) -> str:
    """An IPv4 address mapped into IPv6 (::ffff:192.0.2.1) as IPv4; a zone (%eth0) is cut off."""
    ip = ip.partition("%")[0]
    is_mapped = ip.lower().startswith(MAPPED) and "." in ip and ":" not in ip[len(MAPPED) :]
    return ip[len(MAPPED) :] if is_mapped else ip


def canonical(ip: str) -> str:
    """The usual form of an address; "" of what is none."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        return plain_ip(socket.inet_ntop(family, socket.inet_pton(family, ip)))
    except (OSError, ValueError):
        return ""


def _told_peer(environment: "Mapping[str, str]") -> Address:
    """What couriertcpd and tcpserver, systemd, or xinetd and stunnel say of the client."""
    for ip_name, port_name in TOLD_PEERS:
        if address := _told(environment, ip_name, port_name):
            return address
    return Address()


def _told_local(environment: "Mapping[str, str]") -> Address:
    return _told(environment, "TCPLOCALIP", "TCPLOCALPORT") or Address()


def _told(environment: "Mapping[str, str]", ip_name: str, port_name: str) -> "Address | None":
    ip = plain_ip(environment.get(ip_name, ""))
    port = environment.get(port_name, "")
    if not is_ip(ip):
        return None
    return Address(ip, port if port.isascii() and port.isdigit() and len(port) <= 5 else "")


def is_ip(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    for family in INTERNET:
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False
