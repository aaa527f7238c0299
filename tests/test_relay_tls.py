"""After the login, as in test_relay, where one side is behind TLS or both are; and handshakes that lead nowhere."""

from __future__ import annotations

import random
import re
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from libssl import TLS12, TLS13, CutOff, Peer, TlsError
from real.certificates import Authority, Certificate
from scripted import GREETING, LOGIN, Backend, read_login
from support import DEADLINE, Session, Site, Wire, patched, wait_until
from test_relay import noise

SIDES = ("client", "backend", "both")
FIRST = ("client", "backend")
OK = {"imap": b"OK in", "pop3": b"+OK in"}
BULK = 12 << 20
FLOOD = 5 << 19  # bytes of an enemy's messages: 97 000 of them
RECORD = 16384
Start = Callable[..., Session]
Joined = Callable[..., tuple[Session, Wire, Wire]]


def wrapped(front: Certificate) -> dict[str, str]:
    return {"PROXY_TLS_WRAP": "1", "TLS_CERTFILE": str(front.both)}


@pytest.fixture
def joined(site: Site, helper: Start, backend: Backend, front: Certificate, authority: Authority) -> Iterator[Joined]:
    """A client and its backend, logged in, one of them or both behind TLS; `behind` and `ahead` are what comes with the
    login and with its reply."""
    site.account("u1", mailhost=backend.mailhost)
    peers: list[Peer] = []

    def peer(*args: object) -> Peer:
        peers.append(Peer(*args))
        return peers[-1]

    def begin(
        sides: str = "both",
        protocol: str = "imap",
        version: int = TLS13,
        behind: bytes = b"",
        ahead: bytes = b"",
        **options: object,
    ) -> tuple[Session, Wire, Wire]:
        secure_client, secure_backend = sides != "backend", sides != "client"
        tls = "yes" if secure_backend else "no"
        site.set(PROXY_CAFILE=authority.ca, IMAP_PROXY_TLS=tls, POP3_PROXY_TLS=tls)
        session = helper(protocol, env=wrapped(front) if secure_client else {}, **options)
        left = peer(session, None, version) if secure_client else session
        left.line()
        left.send(LOGIN[protocol] + behind)
        wire = backend.accept()
        right = peer(wire, front.both, version) if secure_backend else wire
        right.send(GREETING[protocol])
        right.send(read_login(protocol, right).reply(OK[protocol]) + ahead)
        left.until(b"a1 OK" if protocol == "imap" else OK[protocol])
        return session, left, right

    yield begin
    for end in peers:
        end.close()


def exchange(left: Wire, right: Wire, up: bytes, down: bytes, seed: int = 0, between=lambda sent: None) -> None:
    """Both ways at once in pieces of all sizes, with `between` called between them; what arrives is what was sent."""
    chance = random.Random(seed)
    flows = [(left, right, memoryview(up), bytearray()), (right, left, memoryview(down), bytearray())]
    sent = [0, 0]
    end = time.monotonic() + 3 * DEADLINE
    while any(len(into) < len(data) for _, _, data, into in flows):
        assert time.monotonic() < end, f"bytes are missing: {[len(into) for *_, into in flows]} after {sent}"
        reading = [target.reading for _, target, data, into in flows if len(into) < len(data)]
        writing = [source.writing for way, (source, _, data, _) in enumerate(flows) if sent[way] < len(data)]
        writing += [end.writing for end in (left, right) if getattr(end, "unsent", b"")]
        readable, writable, _ = select.select(reading, writing, [], DEADLINE)
        assert readable or writable, "nothing moves"
        for way, (source, target, data, into) in enumerate(flows):
            if target.reading in readable and chance.random() < 0.7:
                assert target.pull() or len(into) + len(target.received) == len(data), "it ended early"
                into += target.take(len(target.received))
                assert into == data[: len(into)]
            if source.writing in writable:
                size = int(2 ** chance.uniform(0, 17))
                sent[way] += source.push(data[sent[way] : sent[way] + size])
        between(sent)


def ends(wire: Wire) -> bytes:
    """What comes before an orderly end; behind TLS that is a close_notify, and nothing behind it but a FIN."""
    data = wire.rest()
    if isinstance(wire, Peer):
        assert wire.under.ended()
    return data


def is_cut_off(wire: Wire) -> bool:
    """It ends without another byte, and behind TLS it does not look like the end that the other side meant."""
    try:
        return not wire.rest() and not isinstance(wire, Peer)
    except (CutOff, ConnectionResetError):
        return not wire.received


def order(first: str, left: Wire, right: Wire) -> tuple[Wire, Wire]:
    return (left, right) if first == "client" else (right, left)


def own_kb(session: Session) -> int:
    """Memory of its own, unlike what it shares with others."""
    return int(session.status()["RssAnon"].split()[0])


def is_idle(session: Session, seconds: float = 0.3) -> bool:
    used = session.cpu_seconds()
    select.select([], [], [], seconds)
    return session.cpu_seconds() - used < 0.03


# Bytes


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("sides", SIDES)
def test_bulk_both_ways_in_pieces_of_all_sizes(joined, sides, version):
    _, left, right = joined(sides, version=version)
    exchange(left, right, noise(BULK, 1), noise(BULK, 2))


@pytest.mark.parametrize("client", ["socketpair", "pipes"])
@pytest.mark.parametrize("sides", ["client", "both"])
def test_bulk_whatever_stands_below(joined, sides, client):
    _, left, right = joined(sides, client=client)
    exchange(left, right, noise(BULK // 4, 1), noise(BULK // 4, 2))


@pytest.mark.parametrize("sides", SIDES)
def test_key_updates_while_data_flows(joined, sides):
    _, left, right = joined(sides)
    chance = random.Random(3)

    def update(sent: list[int]) -> None:
        for end in (left, right):
            if isinstance(end, Peer) and chance.random() < 0.3:
                end.update_key(answer=chance.random() < 0.5)

    exchange(left, right, noise(BULK // 2, 1), noise(BULK // 2, 2), between=update)
    for one, other in ((left, right), (right, left)):
        one.send(b"still here\r\n")
        assert other.line() == b"still here\r\n"


@pytest.mark.parametrize("first", FIRST)
def test_key_update_when_nothing_flows(joined, first):
    """It is taken for no data, and for no reason to wake up again; the answer comes before the next data."""
    session, left, right = joined()
    one, other = order(first, left, right)
    one.update_key(answer=True)
    one.flush()
    assert other.silent(0.1)
    assert is_idle(session, 0.2)
    exchange(left, right, b"up" * 1000, b"down" * 1000)


@pytest.mark.parametrize("sides", SIDES)
def test_single_bytes_and_halves_of_records_are_passed_on_at_once(joined, sides):
    _, left, right = joined(sides)
    for one, other in ((left, right), (right, left)):
        for number in range(0, 256, 5):
            one.send(bytes([number]))
            assert other.exactly(1) == bytes([number])
        if isinstance(one, Peer):
            whole, half = one.sealed(b"whole\r\n"), one.sealed(b"half\r\n")
            one.under.send(whole + half[:-1])
            assert other.line() == b"whole\r\n"
            assert other.silent(0.05)
            one.under.send(half[-1:])
            assert other.line() == b"half\r\n"


@pytest.mark.parametrize("first", FIRST)
def test_record_byte_by_byte(joined, first):
    session, left, right = joined()
    one, other = order(first, left, right)
    for byte in one.sealed(b"a line\r\n"):
        one.under.send(bytes([byte]))
    assert other.line() == b"a line\r\n"
    assert is_idle(session, 0.2)


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("sides", SIDES)
def test_what_comes_in_the_record_of_the_login_and_of_its_reply(joined, protocol, sides):
    behind, ahead = noise(RECORD - 100, 1), noise(RECORD - 100, 2)
    _, left, right = joined(sides, protocol, behind=behind, ahead=ahead)
    assert right.exactly(len(behind)) == behind
    assert left.exactly(len(ahead)) == ahead
    exchange(left, right, noise(50_000, 3), noise(50_000, 4))


@pytest.mark.parametrize("sides", SIDES)
def test_what_comes_in_many_records_behind_the_login(joined, sides):
    behind, ahead = noise(200_000, 1), noise(200_000, 2)
    _, left, right = joined(sides, behind=behind, ahead=ahead)
    assert right.exactly(len(behind)) == behind
    assert left.exactly(len(ahead)) == ahead


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_everything_in_one_segment(site, helper, backend, front, version):
    """The end of the handshake, the login, what follows it, half a record; then the other half with the goodbye."""
    site.account("u1", mailhost=backend.mailhost)
    session = helper(env=wrapped(front))
    left = Peer(session, version=version, shake=False)
    while not left.step(session.take(len(session.received))):
        if said := left.sealed():
            session.send(said)
        session.fill()
    last, half = left.sealed(LOGIN["imap"] + b"a2 NOOP\r\n"), left.sealed(b"a3 LOGOUT\r\n")
    session.send(last + half[:-5])
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.line() == b"a2 NOOP\r\n"
    session.send(half[-5:] + left.goodbye())
    assert wire.rest() == b"a3 LOGOUT\r\n"
    wire.send(b"* BYE\r\n")
    wire.close()
    assert ends(left).endswith(b"a1 OK in\r\n* BYE\r\n")
    assert session.exit_status() == 0


@pytest.mark.parametrize("cut", ["", "client", "backend"])
def test_session_that_is_over_before_it_is_relayed(site, helper, backend, front, authority, cut):
    """Both sides say all they have to say, and their goodbye, with the login and the reply to it."""
    site.set(PROXY_CAFILE=authority.ca, IMAP_PROXY_TLS="yes")
    site.account("u1", mailhost=backend.mailhost)
    session = helper(env=wrapped(front))
    left = Peer(session)
    session.send(left.sealed(LOGIN["imap"] + b"a2 LOGOUT\r\n") + (left.goodbye() if cut != "client" else b""))
    if cut == "client":
        session.half_close()
    wire = backend.accept()
    right = Peer(wire, front.both)
    right.send(GREETING["imap"])
    said = right.sealed(read_login("imap", right).reply(b"OK in") + b"* BYE\r\n")
    wire.send(said + (right.goodbye() if cut != "backend" else b""))
    if cut == "backend":
        wire.half_close()
    if not cut:
        assert ends(left).endswith(b"a1 OK in\r\n* BYE\r\n")
        assert ends(right) == b"a2 LOGOUT\r\n"
    elif cut == "client":
        assert right.line() == b"a2 LOGOUT\r\n"
        assert is_cut_off(right)
        wire.close()
    else:
        assert left.until(b"* BYE")
        assert is_cut_off(left)
        session.half_close()
    assert session.exit_status() == 0
    session.log.find("INFO: LOGOUT", "" if cut == "backend" else "rcvd=11")


def test_login_with_a_goodbye_and_nothing_between(site, helper, backend, front):
    """A client that only listens from then on: its goodbye is passed on, though nothing more comes from it."""
    site.account("u1", mailhost=backend.mailhost)
    session = helper(env=wrapped(front))
    left = Peer(session)
    session.send(left.sealed(LOGIN["imap"]) + left.goodbye())
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.ended()
    wire.send(b"* BYE\r\n")
    wire.half_close()
    assert ends(left).endswith(b"a1 OK in\r\n* BYE\r\n")
    assert session.exit_status() == 0


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_greeting_in_the_segment_that_ends_the_handshake(site, greeted, backend, front, authority, version):
    """A backend need not wait before it greets."""
    site.set(PROXY_CAFILE=authority.ca, IMAP_PROXY_TLS="yes")
    site.account("u1", mailhost=backend.mailhost)
    session = greeted()
    session.send(LOGIN["imap"])
    wire = backend.accept()
    right = Peer(wire, front.both, version, shake=False)
    while not right.step(wire.take(len(wire.received))):
        if said := right.sealed():
            wire.send(said)
        wire.fill()
    wire.send(right.sealed(GREETING["imap"]))
    right.send(read_login("imap", right).reply(b"OK in"))
    assert session.line() == b"a1 OK in\r\n"


@pytest.mark.parametrize("protocol", ["imap", "pop3"])
@pytest.mark.parametrize("sides", SIDES)
def test_counts_are_of_plaintext(joined, protocol, sides):
    session, left, right = joined(sides, protocol, behind=b"x" * 11, ahead=b"y" * 13)
    left.send(b"x" * 70_000)
    right.exactly(70_011)
    right.send(b"y" * 300_000)
    left.exactly(300_013)
    left.half_close()
    assert ends(right) == b""
    right.half_close()
    assert ends(left) == b""
    reply = len(b"a1 OK in\r\n" if protocol == "imap" else b"+OK in\r\n")
    line = session.log.find("INFO: LOGOUT", f"protocol={protocol.upper()}")
    assert f", rcvd=70011, sent={300_013 + reply}, time=" in line
    assert (", backend_tls=TLSv1.3" in line) == (sides != "client")
    flag = {"imap": "starttls", "pop3": "stls"}[protocol]
    assert bool(re.search(f", {flag}=1, tls=TLSv1.3, cipher=TLS_[A-Z0-9_]+\n", line)) == (sides != "backend")


# The end


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("first", FIRST)
def test_half_close_and_the_other_way_goes_on(joined, client, sides, first):
    """Whoever ends first, both hear an orderly end behind the last byte."""
    session, left, right = joined(sides, client=client)
    one, other = order(first, left, right)
    exchange(left, right, noise(100_000, 1), noise(100_000, 2))
    one.half_close()
    assert other.rest() == b""
    assert is_idle(session, 0.2)
    data = noise(3 << 20)
    exchange(other, one, data, b"")
    other.half_close()
    assert ends(one) == b""
    assert session.exit_status() == 0
    session.log.find("INFO: LOGOUT")


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("first", FIRST)
def test_half_close_while_both_ways_flow(joined, sides, first, version):
    session, left, right = joined(sides, version=version)
    one, other = order(first, left, right)
    short, long = noise(300_000, 1), noise(4 << 20, 2)
    closed = []

    def close(sent: list[int]) -> None:
        if sent[0] == len(short) and not closed:
            closed.append(True)
            one.half_close()

    exchange(one, other, short, long, between=close)
    assert closed
    assert other.rest() == b""
    other.half_close()
    assert ends(one) == b""
    assert session.exit_status() == 0


def last_words(wire: Wire, data: bytes) -> None:
    """Data and the end at once: behind TLS in one segment, without a FIN."""
    if isinstance(wire, Peer):
        wire.under.send(wire.sealed(data) + wire.goodbye())
    else:
        wire.send(data)
        wire.half_close()


@pytest.mark.parametrize("client", ["tcp", "socketpair", "pipes"])
@pytest.mark.parametrize("sides", SIDES)
def test_goodbye_with_the_last_data_and_no_fin(joined, client, sides):
    """From both at once: nobody waits for a FIN that need not come."""
    session, left, right = joined(sides, client=client)
    up, down = noise(30_000, 1), noise(30_000, 2)
    with session.stopped():
        last_words(left, up)
        last_words(right, down)
    assert ends(right) == up
    assert ends(left) == down
    assert session.exit_status() == 0


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("first", FIRST)
def test_goodbye_and_close_leave_what_was_said(joined, sides, first):
    """LOGOUT, BYE, and both connections closed."""
    session, left, right = joined(sides)
    one, other = order(first, left, right)
    data = noise(400_000)
    one.send(data)
    one.half_close()
    one.close()
    assert ends(other) == data
    other.close()
    assert session.exit_status() == 0


@pytest.mark.parametrize("first", FIRST)
def test_key_update_behind_a_half_close(joined, first):
    """Who has said goodbye may still be asked for a new key: it cannot be answered, and nothing is lost."""
    session, left, right = joined()
    one, other = order(first, left, right)
    one.half_close()
    assert other.rest() == b""
    other.update_key(answer=True)
    other.update_key()
    exchange(other, one, noise(200_000), b"")
    other.half_close()
    assert ends(one) == b""
    assert session.exit_status() == 0


CUTS = {"behind a record": 0, "in a record": 20, "in a header": 3}


@pytest.mark.parametrize(
    ("first", "sides", "client"),
    [
        ("client", "client", "tcp"),
        ("client", "both", "tcp"),
        ("client", "both", "pipes"),
        ("backend", "backend", "tcp"),
        ("backend", "both", "tcp"),
        ("backend", "both", "pipes"),
    ],
)
@pytest.mark.parametrize("cut", CUTS)
def test_cut_off_is_noticed(joined, client, sides, cut, first):
    """A FIN without a close_notify: what came before it is passed on, the end is not made to look like one in order,
    and what the other side has to say still arrives."""
    session, left, right = joined(sides, client=client)
    one, other = order(first, left, right)
    data = noise(20_000)
    record = one.sealed(b"z" * 1000)
    one.under.send(one.sealed() + record + one.sealed(data))
    one.under.send(one.sealed(b"never")[: CUTS[cut]])
    one.under.half_close()
    assert other.exactly(1000 + len(data)) == b"z" * 1000 + data
    assert is_cut_off(other)
    other.send(b"the last word")
    assert one.exactly(13) == b"the last word"
    other.close()
    assert session.exit_status() == 0
    session.log.find("INFO: LOGOUT", "rcvd=21000" if first == "client" else "rcvd=13")


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("spoilt", ["a flipped bit", "garbage", "a huge record", "a record of no known type"])
def test_broken_record_ends_both_directions(joined, spoilt, first):
    session, left, right = joined()
    one, other = order(first, left, right)
    good, bad = one.sealed(b"good\r\n"), bytearray(one.sealed(b"x" * 100))
    bad[50] ^= 1
    what = {
        "a flipped bit": bytes(bad),
        "garbage": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
        "a huge record": b"\x17\x03\x03\xff\xff" + bytes(65535),
        "a record of no known type": b"\x63\x03\x03\x00\x10" + bytes(16),
    }
    one.under.send(good + what[spoilt])
    assert other.line() == b"good\r\n"
    assert is_cut_off(other)
    with pytest.raises((TlsError, CutOff, ConnectionResetError)):
        one.rest()
    other.close()
    one.close()
    assert session.exit_status() == 0
    session.log.find("INFO: LOGOUT")


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("first", FIRST)
def test_reset_loses_nothing_already_sent(joined, sides, first):
    session, left, right = joined(sides)
    one, other = order(first, left, right)
    data = noise(50_000)
    under = one.under if isinstance(one, Peer) else one
    with session.stopped():
        one.send(data)
        under.reset()
    assert other.exactly(len(data)) == data
    assert is_cut_off(other) or sides in FIRST
    other.close()
    assert session.exit_status() == 0


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("first", FIRST)
def test_silence_after_a_goodbye_has_an_end(joined, sides, first):
    session, left, right = joined(sides, wrapped=patched("proxyhelper.relay", LINGER=0.5, TICK=0.1))
    one, other = order(first, left, right)
    one.half_close()
    assert other.rest() == b""
    other.send(b"progress")
    assert one.exactly(8) == b"progress"
    assert is_idle(session, 0.2)
    assert session.exit_status() == 0


@pytest.mark.parametrize("first", FIRST)
def test_silence_of_one_that_was_cut_off_has_an_end(joined, first):
    """The other does not close either."""
    session, left, right = joined(wrapped=patched("proxyhelper.relay", LINGER=0.5, TICK=0.1))
    order(first, left, right)[0].under.half_close()
    assert session.exit_status() == 0


# Readers that do not read


def fill_up(source: Wire, limit: int) -> int:
    """Send until nothing is taken any more; how much was."""
    block, pushed = noise(1 << 17), 0
    while select.select([], [source.writing], [], 0.25)[1]:
        pushed += source.push(block[pushed % len(block) :])
        assert pushed < limit, "no back-pressure"
    return pushed


@pytest.mark.parametrize(("sides", "client"), [*((sides, "tcp") for sides in SIDES), ("both", "pipes")])
@pytest.mark.parametrize("reader", FIRST)
def test_back_pressure(joined, client, sides, reader):
    """Memory stays bounded, waiting costs nothing, the other direction goes on, and all arrives in the end."""
    session, left, right = joined(sides, client=client)
    target, source = order(reader, left, right)
    before = own_kb(session)
    pushed = fill_up(source, 64 << 20)
    assert own_kb(session) - before < 4096
    assert is_idle(session)
    for _ in range(3 if isinstance(target, Peer) else 0):  # their answers come behind what is under way
        target.update_key(answer=True)
    target.send(b"the other way\r\n")
    assert source.line() == b"the other way\r\n"
    assert is_idle(session, 0.2)
    block, got = noise(1 << 17), 0
    while got < pushed:
        assert target.fill()
        data = target.take(len(target.received))
        start = got % len(block)
        assert data == (block * (len(data) // len(block) + 2))[start : start + len(data)]
        got += len(data)
        if isinstance(source, Peer):
            source.try_to_flush()
    assert got == pushed


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("reader", FIRST)
def test_writer_that_leaves_a_full_relay_behind(joined, sides, reader):
    """The slow reader gets all of it, and an orderly end."""
    session, left, right = joined(sides)
    target, source = order(reader, left, right)
    data = noise(2 << 20)
    source.send(data)
    last_words(source, b"the end")
    raw = source.under if isinstance(source, Peer) else source
    raw.socket.shutdown(socket.SHUT_WR)
    assert ends(target) == data + b"the end"
    target.half_close()
    assert ends(source) == b""
    assert session.exit_status() == 0


def test_slow_reader_of_what_a_closed_backend_has_left(joined):
    """It is given time as long as it takes some."""
    session, left, right = joined(
        "client", client="socketpair", wrapped=patched("proxyhelper.relay", LINGER=0.8, TICK=0.1)
    )
    data = noise(900_000)
    right.send(data)
    right.close()
    got = b""
    while len(got) < len(data):
        select.select([], [], [], 0.1)
        assert left.readable(DEADLINE)
        some = session.socket.recv(50_000)
        assert some, f"it ended after {len(got)} bytes"
        left.feed(some)
        left.decrypt()
        got += left.take(len(left.received))
    assert got == data
    assert ends(left) == b""


@pytest.mark.parametrize("reader", FIRST)
def test_reader_that_is_gone_for_good(joined, reader):
    session, left, right = joined(wrapped=patched("proxyhelper.relay", LINGER=0.5, TICK=0.1))
    target, source = order(reader, left, right)
    fill_up(source, 64 << 20)
    target.under.reset()
    source.under.reset()
    assert session.exit_status() == 0


def flood(enemy: Peer, message: Callable[[], None]) -> int:
    """Say it again and again, and read nothing; how many bytes were taken."""
    taken = 0
    while taken < FLOOD:
        while len(enemy.unsent) < 1 << 18:
            message()
        before = len(enemy.unsent)
        if not select.select([], [enemy.writing], [], 0.5)[1]:
            break
        try:
            enemy.try_to_flush()
        except OSError:
            break
        taken += before - len(enemy.unsent)
    return taken


FLOODS = {
    "key updates": (TLS13, lambda enemy: enemy.update_key(answer=True)),
    "unasked key updates": (TLS13, lambda enemy: enemy.update_key()),
    "renegotiations": (TLS12, Peer.renegotiate),
}


@pytest.mark.parametrize(
    ("what", "first", "client"),
    [
        ("key updates", "client", "tcp"),
        ("key updates", "client", "socketpair"),  # which holds less: the answers stay in our memory
        ("key updates", "backend", "tcp"),
        ("unasked key updates", "client", "tcp"),
        ("renegotiations", "backend", "tcp"),  # OpenSSL's client gives up at the first refusal
    ],
)
def test_flood_of_messages_without_data_is_bounded(joined, what, first, client):
    """Each asks for an answer that is never read, or says nothing at all."""
    version, message = FLOODS[what]
    session, left, right = joined(version=version, client=client)
    enemy, other = order(first, left, right)
    before = own_kb(session)
    flood(enemy, lambda: message(enemy))
    if session.process.poll() is None:
        wait_until(lambda: is_idle(session, 0.1), "it has come to rest")
        assert own_kb(session) - before < 1536
    if client == "tcp":
        enemy.under.reset()
    else:
        enemy.under.close()
    assert is_cut_off(other)
    other.close()
    assert session.exit_status() == 0


@pytest.mark.parametrize("what", ["key updates", "unasked key updates"])
def test_flood_of_messages_before_the_login_is_bounded(helper, front, what):
    session = helper(env=wrapped(front))
    enemy = Peer(session)
    enemy.line()
    before = own_kb(session)
    flood(enemy, lambda: FLOODS[what][1](enemy))
    if session.process.poll() is None:
        wait_until(lambda: is_idle(session, 0.1), "it has come to rest")
        assert own_kb(session) - before < 1024


@pytest.mark.parametrize("first", FIRST)
def test_renegotiation_is_refused(joined, first):
    session, left, right = joined(version=TLS12)
    one, other = order(first, left, right)
    exchange(left, right, b"up", b"down")
    one.renegotiate()
    one.flush()
    if first == "client":
        with pytest.raises(TlsError, match="no renegotiation"):
            one.fill()
        assert other.silent(0.1)
    else:
        with pytest.raises((TlsError, TimeoutError)):
            one.fill(1.0)
    assert is_idle(session, 0.2)


# Handshakes that lead nowhere


SECONDS = 0.7  # that a handshake has
STALLS = ("nothing", "a byte", "half a hello", "a hello", "half of the last message")


def stall(wire: Wire, what: str, version: int, certificate: object = None) -> None:
    """Say so much of a handshake, and no more."""
    peer = Peer(wire, certificate, version, shake=False)
    if certificate:
        wire.fill()
    peer.step(wire.take(len(wire.received)))
    first = peer.sealed()
    wire.send(first[: {"nothing": 0, "a byte": 1, "half a hello": 50}.get(what, len(first))])
    if what != "half of the last message":
        return
    wire.fill()
    while not peer.step(wire.take(len(wire.received))) and not (last := peer.sealed()):
        wire.fill()
    last = last if version == TLS12 and not certificate else peer.sealed()
    wire.send(last[:-1])


@pytest.mark.parametrize(
    ("what", "version", "client"),
    [
        *((what, TLS13, "tcp") for what in STALLS),
        *((what, TLS12, "tcp") for what in STALLS[3:]),
        *((what, TLS13, "pipes") for what in STALLS[2:]),
    ],
)
def test_client_that_stalls_in_the_handshake(helper, front, what, version, client):
    within = patched("proxyhelper.reception", LOGIN_SECONDS=SECONDS)
    session = helper(env=wrapped(front), client=client, wrapped=within)
    session.log.find("DEBUG: Connection")
    stall(session, what, version)
    assert is_idle(session, 0.2)
    session.log.find("INFO: TIMEOUT")
    said = session.rest()
    assert said == b"" or (said[:1] == b"\x16" and b"BYE" not in said)
    if client == "tcp":
        session.half_close()
    assert session.exit_status() == 0


def test_client_whose_hello_drips(helper, front):
    """Each byte is progress, and none puts the end off."""
    within = patched("proxyhelper.reception", LOGIN_SECONDS=SECONDS)
    session = helper(env=wrapped(front), wrapped=within)
    session.log.find("DEBUG: Connection")
    peer = Peer(session, shake=False)
    peer.step()
    started = time.monotonic()
    for byte in peer.sealed():
        if session.readable(0.02):
            break
        session.send(bytes([byte]))
    assert session.ended()
    assert time.monotonic() - started < SECONDS + 1
    session.log.find("INFO: TIMEOUT")


NO_HELLO = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: front.example\r\n\r\n",
    "IMAP": b"a1 LOGIN u1 secret\r\n",
    "zeros": bytes(5000),
    "noise": noise(5000, 1),
    "SSL 2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16),
    "a huge record": b"\x16\x03\x01\xff\xff" + bytes(65535),
    "a huge message": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380),
    "an empty hello": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    "data": b"\x17\x03\x03\x00\x05hello",
    "goodbye": b"\x15\x03\x01\x00\x02\x01\x00",
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "warnings": b"\x15\x03\x01\x00\x02\x01\x5a" * 100,
    "empty records": b"\x16\x03\x01\x00\x00" * 1000,
}


@pytest.mark.parametrize("what", NO_HELLO)
def test_something_else_in_place_of_a_hello(helper, front, what):
    session = helper(env=wrapped(front))
    session.send(NO_HELLO[what])
    session.log.find("INFO: DISCONNECTED", ": TLS handshake failed: ")
    try:
        assert session.rest()[:1] in (b"", b"\x15")
    except ConnectionResetError:
        pass
    session.half_close()
    assert session.exit_status() == 0


@pytest.fixture
def asking(site: Site, greeted: Start, backend: Backend, authority: Authority) -> Callable[[], tuple[Session, Wire]]:
    """A client that has logged in, and its backend, which is asked for TLS from the first byte."""
    site.set(PROXY_CAFILE=authority.ca, IMAP_PROXY_TLS="yes", PROXY_TIMEOUT=1)
    site.account("u1", mailhost=backend.mailhost)

    def begin() -> tuple[Session, Wire]:
        session = greeted()
        session.send(LOGIN["imap"])
        return session, backend.accept()

    return begin


@pytest.mark.parametrize(
    ("what", "version"),
    [*((what, TLS13) for what in STALLS[:4]), *((what, TLS12) for what in STALLS[3:])],
)  # the last message of TLS 1.3 is the client's
def test_backend_that_stalls_in_the_handshake(asking, front, what, version):
    session, wire = asking()
    stall(wire, what, version, front.both)
    assert is_idle(session, 0.3)
    assert session.line().startswith(b"a1 NO [UNAVAILABLE]")
    step = "greeting" if (what, version) == ("a hello", TLS13) else "TLS handshake"
    session.log.find("LOGIN DEFERRED", f"no {step}: timed out")
    session.send(b"a2 NOOP\r\n")
    assert session.line().startswith(b"a2 OK")


@pytest.mark.parametrize("what", [*NO_HELLO, "a greeting"])
def test_backend_that_speaks_something_else(asking, what):
    session, wire = asking()
    wire.send({**NO_HELLO, "a greeting": GREETING["imap"]}[what])
    assert session.line().startswith(b"a1 NO [UNAVAILABLE]")
    session.log.find("LOGIN DEFERRED", "TLS failed: ")
    wire.close()


@pytest.mark.parametrize("cut", [0, 3, 60])
def test_backend_that_leaves_in_the_handshake(asking, front, cut):
    session, wire = asking()
    peer = Peer(wire, front.both, shake=False)
    wire.fill()
    peer.step(wire.take(len(wire.received)))
    wire.send(peer.sealed()[:cut])
    wire.half_close()
    assert session.line().startswith(b"a1 NO [UNAVAILABLE]")
    session.log.find("LOGIN DEFERRED", "TLS failed: the connection ended")
