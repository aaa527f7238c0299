"""The PROXY protocol byte by byte: examples and bounds of section 2 of HAProxy's proxy-protocol.txt."""

import random
import socket
import struct

import pytest

from proxyhelper.activation import Address
from proxyhelper.log import sentence
from proxyhelper.proxy_protocol import MAX_BLOCK, Header, Malformed, Reader, version2

SIGNATURE = bytes.fromhex("0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A")
LOCAL, PROXY = 0x20, 0x21
TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DATAGRAM = 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
CLIENT_HELLO = bytes.fromhex("16 03 01 00 05 01 00 00 01 00")

LONGEST_IPV6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
ENDS4 = (("192.168.0.1", "56324"), ("192.168.0.11", "443"))
ENDS6 = (("2001:db8::1", "56324"), ("2001:db8::2", "993"))
NOBODY = (None, None)


def binary(command: int, family: int, block: bytes, length: "int | None" = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def block4(peer: str, local: str, peer_port: int, local_port: int) -> bytes:
    return socket.inet_aton(peer) + socket.inet_aton(local) + struct.pack("!HH", peer_port, local_port)


def block6(peer: str, local: str, peer_port: int, local_port: int) -> bytes:
    ips = [socket.inet_pton(socket.AF_INET6, ip) for ip in (peer, local)]
    return b"".join(ips) + struct.pack("!HH", peer_port, local_port)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


BLOCK4 = block4("192.168.0.1", "192.168.0.11", 56324, 443)
BLOCK6 = block6("2001:db8::1", "2001:db8::2", 56324, 993)
TLVS = (
    tlv(0x02, b"mail.example.com")  # AUTHORITY
    + tlv(0x03, b"\x12\x34\x56\x78")  # CRC32C
    + tlv(0x04, b"")  # NOOP
    + tlv(0x05, b"\xff" * 128)  # UNIQUE_ID
    + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))  # SSL
    + tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")  # a cloud's own
)

HEADERS = {
    "the example of section 2.1": (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ENDS4),
    "longest TCP4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        (("255.255.255.255", "65535"), ("255.255.255.255", "65535")),
    ),
    "shortest TCP4": (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", (("0.0.0.0", "0"), ("0.0.0.0", "0"))),
    "TCP6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 993\r\n", ENDS6),
    "TCP6, long and in capitals": (
        b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0001 2001:DB8::2 56324 993\r\n",
        ENDS6,
    ),
    "longest TCP6": (
        f"PROXY TCP6 {LONGEST_IPV6} {LONGEST_IPV6} 65535 65535\r\n".encode(),
        ((LONGEST_IPV6, "65535"), (LONGEST_IPV6, "65535")),
    ),
    "shortest TCP6": (b"PROXY TCP6 :: ::1 1 2\r\n", (("::", "1"), ("::1", "2"))),
    "TCP6 of IPv4": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:c000:0202 1 2\r\n",
        (("192.0.2.1", "1"), ("192.0.2.2", "2")),
    ),
    "short UNKNOWN": (b"PROXY UNKNOWN\r\n", NOBODY),
    "longest UNKNOWN": (f"PROXY UNKNOWN {LONGEST_IPV6} {LONGEST_IPV6} 65535 65535\r\n".encode(), NOBODY),
    "UNKNOWN and anything": (b"PROXY UNKNOWN  \0\r\xff TCP4 1\r\r\n", NOBODY),
    "2, TCP4": (binary(PROXY, TCP4, BLOCK4), ENDS4),
    "2, TCP4, TLVs": (binary(PROXY, TCP4, BLOCK4 + TLVS), ENDS4),
    "2, TCP4, three bytes that are no TLV": (binary(PROXY, TCP4, BLOCK4 + b"\xff\xff\xff"), ENDS4),
    "2, TCP4, longest": (binary(PROXY, TCP4, BLOCK4 + bytes(MAX_BLOCK - 12)), ENDS4),
    "2, TCP6": (binary(PROXY, TCP6, BLOCK6), ENDS6),
    "2, TCP6, TLVs": (binary(PROXY, TCP6, BLOCK6 + TLVS), ENDS6),
    "2, TCP6 of IPv4": (
        binary(PROXY, TCP6, block6("::ffff:192.0.2.1", "2001:db8::2", 1, 2)),
        (("192.0.2.1", "1"), ("2001:db8::2", "2")),
    ),
    "2, LOCAL": (binary(LOCAL, 0, b""), NOBODY),
    "2, LOCAL of a connection": (binary(LOCAL, TCP4, BLOCK4), NOBODY),
    "2, LOCAL, TLVs": (binary(LOCAL, 0, TLVS), NOBODY),
    "2, LOCAL, TCP4 without addresses": (binary(LOCAL, TCP4, b""), NOBODY),
    "2, LOCAL of an unknown family": (binary(LOCAL, 0xFF, b"\xff"), NOBODY),
    "2, UNSPEC": (binary(PROXY, 0, b""), NOBODY),
    "2, UNSPEC, TLVs": (binary(PROXY, 0, TLVS), NOBODY),
    "2, UNSPEC of STREAM": (binary(PROXY, 0x01, b""), NOBODY),
    "2, IPv4 of UNSPEC": (binary(PROXY, 0x10, BLOCK4), NOBODY),
    "2, UDP4": (binary(PROXY, UDP4, BLOCK4), NOBODY),
    "2, UDP6": (binary(PROXY, UDP6, BLOCK6), NOBODY),
    "2, UNIX stream": (binary(PROXY, UNIX_STREAM, b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")), NOBODY),
    "2, UNIX datagram": (binary(PROXY, UNIX_DATAGRAM, bytes(216)), NOBODY),
}


def told(header: "Header | None"):
    assert header is not None
    return tuple(end and (end.ip, end.port) for end in (header.peer, header.local))


def read_in_pieces(data: bytes, sizes):
    """Header and the bytes behind it, as a caller gets them who peeks, feeds, and consumes what was taken."""
    reader, place = Reader(), 0
    for size in sizes:
        piece = data[place : place + size]
        taken, header = reader.feed(piece)
        assert 0 <= taken <= len(piece)
        place += taken
        if header:
            return header, data[place:]
        assert taken == len(piece)
    raise AssertionError("no header")


@pytest.mark.parametrize("name", HEADERS)
def test_read_at_once(name):
    data, expected = HEADERS[name]
    taken, header = Reader().feed(data)
    assert taken == len(data)
    assert told(header) == expected


@pytest.mark.parametrize("rest", [CLIENT_HELLO, b"a LOGIN u1 x\r\n", b"\r\n", b"\n", b"\0", HEADERS["2, TCP4"][0]])
@pytest.mark.parametrize("name", HEADERS)
def test_nothing_behind_it_is_taken(name, rest):
    data, expected = HEADERS[name]
    for sizes in ([len(data + rest)], [1] * len(data), [len(data) - 1, 100], [3, len(data + rest)]):
        header, left = read_in_pieces(data + rest, sizes)
        assert told(header) == expected
        assert left == rest


@pytest.mark.parametrize("name", HEADERS)
def test_every_truncation_waits_for_more_and_takes_all(name):
    data, expected = HEADERS[name]
    steps = range(len(data)) if len(data) < 600 else [*range(40), len(data) // 2, len(data) - 1]
    for size in steps:
        reader = Reader()
        assert reader.feed(data[:size]) == (size, None)
        assert reader.feed(b"") == (0, None)
        taken, header = reader.feed(data[size:] + b"more")
        assert taken == len(data) - size
        assert told(header) == expected


@pytest.mark.parametrize("seed", range(20))
def test_any_pieces(seed):
    chance = random.Random(seed)
    for data, expected in HEADERS.values():
        rest = chance.randbytes(chance.randrange(50))
        largest = chance.choice([2, 10, 200])
        header, left = read_in_pieces(data + rest, (chance.randrange(largest) for _ in range(100_000)))
        assert told(header) == expected
        assert left == rest


def feed(reader: Reader, piece: bytes) -> "tuple[int, Header | None, str]":
    """What was taken, the header, and what is said of bytes that are none."""
    try:
        return *reader.feed(piece), ""
    except Malformed as error:
        text = str(error)
    assert len(text) < 150
    assert sentence(text).isprintable()
    return 0, None, text


def fault(data: bytes) -> "tuple[str, int]":
    """What is said of `data`, and after how many bytes; the same where all come at once, with more behind."""
    reader = Reader()
    for count in range(1, len(data) + 1):
        taken, header, text = feed(reader, data[count - 1 : count])
        if text:
            assert feed(Reader(), data + bytes(20_000)) == (0, None, text)
            return text, count
        assert (taken, header) == (1, None)
    raise AssertionError(f"{data!r} passed")


STRANGERS = {
    b"a001 LOGIN u1 hunter2\r\n": (1, "it begins with 'a'"),
    b"USER u1\r\n": (1, "it begins with 'U'"),
    b"PASS hunter2\r\n": (2, "it begins with 'PA'"),
    b"PROXY-hunter2\r\n": (6, "it begins with 'PROXY-'"),
    b"proxy TCP4 ": (1, "it begins with 'p'"),
    b"\nPROXY TCP4 ": (1, "it begins with '\n'"),
    b"\r\n\r\na LOGIN u1 hunter2\r\n": (5, "it begins with '\r\n\r\na'"),
    SIGNATURE[:11] + b"\r\n": (12, "it begins with '\r\n\r\n\0\r\nQUIT\r'"),
    CLIENT_HELLO: (1, "it begins with '\x16'"),
    b"\xff\xfe": (1, "it begins with '\udcff'"),
    b"\0" * 20: (1, "it begins with '\0'"),
    b"PROXY  TCP4 ": (7, "it begins with 'PROXY  '"),
    b"PROXY\r\n": (6, "it begins with 'PROXY\r'"),
    b"PROXY \r\n": (7, "it begins with 'PROXY \r'"),
    b"PROXY TCP5 ": (10, "it begins with 'PROXY TCP5'"),
    b"PROXY TCP4\r\n": (11, "it begins with 'PROXY TCP4\r'"),
    b"PROXY TCP46 ": (11, "it begins with 'PROXY TCP46'"),
    b"PROXY UDP4 ": (8, "it begins with 'PROXY UD'"),
    b"PROXY tcp4 ": (7, "it begins with 'PROXY t'"),
    b"PROXY UNKNOWN\n": (14, "it begins with 'PROXY UNKNOWN\n'"),
    b"PROXY UNKNOWN\r\r\n": (15, "it begins with 'PROXY UNKNOWN\r\r'"),
    b"PROXY UNKNOWNS\r\n": (14, "it begins with 'PROXY UNKNOWNS'"),
}


@pytest.mark.parametrize("data", STRANGERS)
def test_who_speaks_something_else_is_told_at_the_first_byte(data):
    count, text = STRANGERS[data]
    assert fault(data) == (text, count)
    assert "hunter2" not in text


@pytest.mark.parametrize("first", set(range(256)) - {ord("P"), ord("\r")})
def test_first_bytes_that_begin_no_header(first):
    assert fault(bytes([first]))[1] == 1


LINES = {
    b"TCP4 192.168.0.1 192.168.0.11 56324\r\n": "it has 3 fields behind TCP4, not two addresses and two ports",
    b"TCP4 \r\n": "it has 1 fields behind TCP4, not two addresses and two ports",
    b"TCP4 192.168.0.1 192.168.0.11 56324 443 \r\n": "it has 5 fields behind TCP4, not two addresses and two ports",
    b"TCP4  192.168.0.1 192.168.0.11 56324 443\r\n": "it has 5 fields behind TCP4, not two addresses and two ports",
    b"TCP4 192.168.0.1\t192.168.0.11 56324 443\r\n": "it has 3 fields behind TCP4, not two addresses and two ports",
    b"TCP6 2001:db8::1 2001:db8::2 1 2 3\r\n": "it has 5 fields behind TCP6, not two addresses and two ports",
    b"TCP4 192.168.0.1 192.168.0.11 56324 443\n": "its line ends with LF, not CRLF",
    b"TCP4 \n": "its line ends with LF, not CRLF",
    b"UNKNOWN \n": "its line ends with LF, not CRLF",
}
IPS4 = [
    *(b"", b"192.168.0", b"192.168.0.256", b"192.168.0.01", b"192.168.0.1.", b"0xC0.168.0.1", b"3232235521"),
    *(b"::1", b"::ffff:192.168.0.1", b"192.168.0.-1", b"192.168.0.1\0", b"localhost", b"\xff", b"192.168.0.1\r", b"*"),
]
IPS6 = [
    *(b"", b"192.168.0.1", b"2001:db8::1::2", b":::", b"2001:db8:1", b"2001:db8::12345", b"fe80::1%lo", b"[::1]"),
    *(b"1:2:3:4:5:6:7:8:9", b"::g", b"::1\0", b"\xc3\xa4", b"::1\r", b"::ffff:192.168.0.256", b":"),
]
PORTS = [
    *(b"", b"65536", b"99999", b"00", b"0443", b"+443", b"-1", b"4_3", b"4.3", b"0x1", b"443\0", b"imap", b"443\r"),
    *(b"\xb2", "٣".encode(), b"123456789012345678901234567890"),
]


@pytest.mark.parametrize("rest", LINES)
def test_lines_of_another_form(rest):
    assert fault(b"PROXY " + rest) == (LINES[rest], len(b"PROXY " + rest))


@pytest.mark.parametrize(
    ("family", "good", "bad"),
    [*((4, b"192.0.2.1", bad) for bad in IPS4), *((6, b"2001:db8::1", bad) for bad in IPS6)],
)
def test_addresses_that_are_none(family, good, bad):
    for ips in ((bad, good), (good, bad)):
        line = b"PROXY TCP%d %b %b 1 2\r\n" % (family, *ips)
        assert fault(line) == (f"'{bad.decode('utf-8', 'surrogateescape')}' is no IPv{family} address", len(line))


@pytest.mark.parametrize("bad", PORTS)
def test_ports_that_are_none(bad):
    for ports in ((bad, b"2"), (b"1", bad)):
        line = b"PROXY TCP4 192.0.2.1 192.0.2.2 %b %b\r\n" % ports
        assert fault(line) == (f"'{bad.decode('utf-8', 'surrogateescape')}' is no port", len(line))


@pytest.mark.parametrize("beginning", [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN "])
def test_lines_that_do_not_end(beginning):
    text = "its line is longer than 107 bytes"
    assert fault(beginning + b"x" * 1000) == (text, 107)
    assert fault(beginning.ljust(106, b"x") + b"\r\n") == (text, 107)
    assert fault(beginning.ljust(105, b"x") + b"\r\r\n") == (text, 107)


def test_a_line_of_107_bytes_is_read():
    line = b"PROXY UNKNOWN ".ljust(105, b"\xff") + b"\r\n"
    assert len(line) == 107
    assert read_in_pieces(line + b"x", [1] * 107)[1] == b"x"


@pytest.mark.parametrize("byte", set(range(256)) - {LOCAL, PROXY})
def test_versions_and_commands_that_are_none(byte):
    assert fault(binary(byte, TCP4, BLOCK4)) == (f"its version and command are 0x{byte:02x}", 13)


@pytest.mark.parametrize("byte", range(256))
def test_families(byte):
    data = binary(PROXY, byte, bytes(216))
    if byte >> 4 <= 3 and byte & 15 <= 2:
        header, left = read_in_pieces(data + b"x", [1] * len(data))
        assert left == b"x"
        assert (header.peer is not None) == (header.local is not None) == (byte in (TCP4, TCP6))
    else:
        assert fault(data) == (f"its address family and protocol are 0x{byte:02x}", 14)


@pytest.mark.parametrize("command", [LOCAL, PROXY])
@pytest.mark.parametrize("length", [MAX_BLOCK + 1, 0x2000, 65535])
def test_lengths_beyond_the_bound(command, length):
    text = f"its addresses and TLVs are {length} bytes, over 4096"
    assert fault(binary(command, TCP4, b"", length)) == (text, 16)


@pytest.mark.parametrize(("family", "needed"), [(TCP4, 12), (TCP6, 36)])
def test_lengths_below_the_addresses(family, needed):
    for length in range(needed):
        text = f"its addresses are {length} bytes, not {needed}"
        assert fault(binary(PROXY, family, bytes(length))) == (text, 16 + length)


@pytest.mark.parametrize("seed", range(20))
def test_garbage(seed):
    """Nothing else is raised, no more taken than given, no more held than a header has."""
    chance = random.Random(seed)
    samples = [data for data, _ in HEADERS.values()]
    for _ in range(300):
        data = bytearray(chance.choice(samples) + chance.randbytes(5))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(min(len(data), 60))] = chance.choice(b"\0\r\n 0:.\xff" + chance.randbytes(4))
        reader, place, header, text = Reader(), 0, None, ""
        while place < len(data) and not header and not text:
            assert place < 16 + MAX_BLOCK
            piece = bytes(data[place : place + chance.randrange(1, 40)])
            taken, header, text = feed(reader, piece)
            assert text or (0 < taken <= len(piece) if header else taken == len(piece))
            place += taken
        assert not header or data.startswith(SIGNATURE) or data[:place].endswith(b"\r\n")


WRITTEN = {
    "IPv4": (("192.168.0.1", 56324), ("192.168.0.11", 443), binary(PROXY, TCP4, BLOCK4)),
    "IPv6": (("2001:db8::1", 56324), ("2001:db8::2", 993), binary(PROXY, TCP6, BLOCK6)),
    "IPv4 to IPv6": (
        ("192.0.2.1", 1),
        ("2001:db8::2", 2),
        binary(PROXY, TCP6, block6("::ffff:192.0.2.1", "2001:db8::2", 1, 2)),
    ),
    "IPv6 to IPv4": (
        ("2001:db8::1", 65535),
        ("192.0.2.2", 0),
        binary(PROXY, TCP6, block6("2001:db8::1", "::ffff:192.0.2.2", 65535, 0)),
    ),
    "no ports": (("192.0.2.1", ""), ("192.0.2.2", ""), binary(PROXY, TCP4, block4("192.0.2.1", "192.0.2.2", 0, 0))),
}
NOT_WRITTEN = [
    (("", ""), ("", "")),
    (("", 1), ("192.0.2.2", 2)),
    (("192.0.2.1", 1), ("", 2)),
    (("", 1), ("2001:db8::2", 2)),
    (("2001:db8::1", 1), ("", 2)),
    (("192.0.2.1", 99999), ("192.0.2.2", 2)),
    (("192.0.2.1", 1), ("192.0.2.2", "x")),
    (("192.0.2.1", -1), ("192.0.2.2", 2)),
    (("1:2", 1), ("192.0.2.2", 2)),
    (("192.0.2.1", 1), ("...", 2)),
    (("192.0.2.1\0", 1), ("192.0.2.2", 2)),
]


@pytest.mark.parametrize("name", WRITTEN)
def test_written(name):
    peer, local, expected = WRITTEN[name]
    assert version2(Address(*peer), Address(*local)) == expected
    taken, header = Reader().feed(expected)
    assert taken == len(expected)
    assert told(header) == tuple((ip, str(port or 0)) for ip, port in (peer, local))


@pytest.mark.parametrize(("peer", "local"), NOT_WRITTEN)
def test_an_address_that_is_not_known_makes_it_local(peer, local):
    assert version2(Address(*peer), Address(*local)) == SIGNATURE + b"\x20\0\0\0"
