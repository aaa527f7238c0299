"""After the login: two ends, bytes both ways, until both have closed."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import socket
import struct
import termios
import time
from pathlib import Path

import pytest
from support import DEADLINE, Session, Wire, patched, wait_until

PROTOCOLS = ("imap", "pop3")
CLIENTS = ("tcp", "socketpair", "pipes")
BULK = 24 << 20
MANY_TURNS = 3 << 20
KEEPALIVE_TIMER = "02"  # /proc/net/tcp, column tr


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def carry(*flows: tuple[Wire, Wire, bytes]) -> list[bytes]:
    """Send each flow's bytes from its first wire to its second, all at once; what arrived."""
    end = time.monotonic() + 6 * DEADLINE
    left = {source: memoryview(data) for source, _, data in flows}
    targets = [(target, len(data)) for _, target, data in flows]
    while any(len(target.received) < size for target, size in targets):
        assert time.monotonic() < end, "bytes are missing"
        reading = [target.reading for target, size in targets if len(target.received) < size]
        writing = [source.writing for source, data in left.items() if data]
        readable, writable, _ = select.select(reading, writing, [], DEADLINE)
        assert readable or writable, "nothing moves"
        for target, _ in targets:
            if target.reading in readable:
                assert target.pull(), "closed before all bytes were there"
        for source in left:
            if source.writing in writable:
                left[source] = left[source][source.push(left[source]) :]
    return [target.take(size) for target, size in targets]


@pytest.mark.parametrize("client", CLIENTS)
def test_bulk_both_ways_at_once(relayed, client):
    session, wire = relayed(client=client)
    up, down = noise(BULK, 1), noise(BULK, 2)
    assert carry((session, wire, up), (wire, session, down)) == [up, down]


def push_all(wire: Wire, size: int) -> int:
    """Send so many bytes, or as many as fit; how many did."""
    sent = 0
    while sent < size and (taken := wire.push(bytes(size - sent))):
        sent += taken
    return sent


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("source", ["client", "backend"])
def test_burst_of_any_size_arrives_whole(relayed, client, source):
    """However many turns it takes, nothing waits in the relay for bytes that do not come."""
    session, wire = relayed(client=client)
    left, right = (session, wire) if source == "client" else (wire, session)
    if client == "pipes":
        for end in (session.reading, session.writing):
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 20)
    for size in range(1 << 16, MANY_TURNS, 1 << 16):
        with session.stopped():
            sent = push_all(left, size)
        assert right.exactly(sent) == bytes(sent)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("client", CLIENTS)
def test_single_bytes_are_passed_on_at_once(relayed, protocol, client):
    session, wire = relayed(protocol, client=client)
    for number in range(256):
        byte = bytes([number])
        session.send(byte)
        assert wire.exactly(1) == byte
        wire.send(byte)
        assert session.exactly(1) == byte


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", ["client", "backend"])
def test_half_close_is_passed_on_and_the_other_way_stays_open(relayed, client, first):
    session, wire = relayed(client=client)
    left, right = (session, wire) if first == "client" else (wire, session)
    left.half_close()
    assert right.ended()
    data = noise(3 << 20)
    assert carry((right, left, data)) == [data]
    right.half_close()
    assert left.ended()
    assert session.exit_status() == 0


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", ["client", "backend"])
def test_half_close_comes_behind_the_data_in_flight(relayed, client, first):
    session, wire = relayed(client=client)
    left, right = (session, wire) if first == "client" else (wire, session)
    data, back = noise(300_000, 1), noise(300_000, 2)
    with session.stopped():
        sent, returned = left.push(data), right.push(back)
        left.half_close()
        right.half_close()
    assert right.rest() == data[:sent]
    assert left.rest() == back[:returned]
    assert session.exit_status() == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_one_side_closes_while_the_other_reads_slowly(relayed, client):
    session, wire = relayed(client=client)
    data = noise(8 << 20)
    left = memoryview(data)
    while left and select.select([], [wire.writing], [], 0.2)[1]:
        left = left[wire.push(left) :]
    sent = len(data) - len(left)
    wire.half_close()
    assert session.rest() == data[:sent]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("reader", ["client", "backend"])
def test_back_pressure(relayed, client, reader):
    """A reader that does not read stops the writer, and costs no memory."""
    session, wire = relayed(client=client)
    source, target = (wire, session) if reader == "client" else (session, wire)
    before = session.pss_kb()
    block, pushed = noise(1 << 18), 0
    while select.select([], [source.writing], [], 0.5)[1]:
        pushed += source.push(block)
        assert pushed < 64 << 20, "no back-pressure"
    assert session.pss_kb() - before < 1024
    used = session.cpu_seconds()
    assert target.readable()
    assert not select.select([], [source.writing], [], 0.5)[1]
    assert session.cpu_seconds() - used < 0.05, "it spins while it waits for the reader"
    target.received.clear()
    while target.fill() and len(target.received) < pushed:
        pass
    assert bytes(target.received) == (block * (pushed // len(block) + 1))[:pushed] or pushed % len(block)


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("closed", ["nobody", "client", "backend"])
def test_waiting_costs_no_cpu(relayed, client, closed):
    session, wire = relayed(client=client)
    if closed != "nobody":
        (session if closed == "client" else wire).half_close()
        assert (wire if closed == "client" else session).ended()
    used = session.cpu_seconds()
    assert (session if closed != "backend" else wire).silent(0.5)
    assert session.cpu_seconds() - used < 0.03


def test_reset_backend_loses_nothing_already_sent(relayed):
    session, wire = relayed()
    data = noise(50_000)
    with session.stopped():
        wire.send(data)
        wire.reset()
    assert session.exactly(len(data)) == data
    assert session.ended()
    session.close()
    session.exit_status()


def test_reset_client_loses_nothing_already_sent(relayed):
    session, wire = relayed()
    data = noise(50_000)
    with session.stopped():
        session.send(data)
        session.reset()
    assert wire.exactly(len(data)) == data
    assert wire.ended()
    wire.close()
    session.exit_status()


def test_reset_of_one_side_leaves_the_other_s_goodbye(relayed):
    """Both speak at once, and one is reset: what it had said arrives."""
    session, wire = relayed()
    with session.stopped():
        session.send(b"z LOGOUT\r\n")
        wire.send(b"* BYE autologout\r\n")
        wire.reset()
    assert session.line() == b"* BYE autologout\r\n"
    assert session.ended()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", ["client", "backend"])
def test_full_close_ends_the_session(relayed, client, first):
    session, wire = relayed(client=client)
    (session if first == "client" else wire).close()
    other = wire if first == "client" else session
    assert other.ended()
    other.close()
    assert session.exit_status() == 0


@pytest.mark.parametrize("first", ["client", "backend"])
def test_closed_client_that_is_written_to(relayed, first):
    """Full close and half-close look alike until somebody writes."""
    session, wire = relayed()
    gone, left = (session, wire) if first == "client" else (wire, session)
    gone.close()
    assert left.ended()
    try:
        while not left.readable(0.05) or left.pull():
            left.push(b"x" * 1000)
    except (BrokenPipeError, ConnectionResetError):
        pass
    left.close()
    assert session.exit_status() in (0, 1)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("first", ["client", "backend"])
def test_silence_after_half_close_has_an_end(relayed, client, first):
    session, wire = relayed(client=client, wrapped=patched("proxyhelper.relay", LINGER=0.6))
    left, right = (session, wire) if first == "client" else (wire, session)
    left.half_close()
    assert right.ended()
    started = time.monotonic()
    for _ in range(4):
        right.send(b"progress")
        assert left.exactly(8) == b"progress"
        assert left.silent(0.2), "progress puts the end off"
    assert left.ended()
    assert time.monotonic() - started > 1.2
    assert session.exit_status() == 0


def test_silence_of_both_has_no_end(relayed):
    session, wire = relayed(wrapped=patched("proxyhelper.relay", LINGER=0.2))
    assert session.silent(0.6)
    wire.send(b"* still here\r\n")
    assert session.line() == b"* still here\r\n"


def test_login_deadline_is_over_after_the_login(relayed):
    session, wire = relayed(wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=0.5))
    assert session.silent(0.8)
    wire.send(b"* still here\r\n")
    assert session.line() == b"* still here\r\n"


def timers() -> dict[int, str]:
    """The timer that runs for each established connection, by its local port."""
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    rows = [line.split() for line in tables.splitlines() if ":" in line.split()[1]]
    return {int(row[1].rpartition(":")[2], 16): row[5].partition(":")[0] for row in rows if row[3] == "01"}


@pytest.mark.parametrize("client", ["tcp", "tcp6"])
def test_keepalive_on_both_sides(relayed, client):
    session, wire = relayed(client=client)
    ends = [wire.socket.getpeername()[1], session.socket.getpeername()[1]]
    end = time.monotonic() + DEADLINE
    while [timers()[port] for port in ends] != [KEEPALIVE_TIMER] * 2:
        assert time.monotonic() < end, "until all is acknowledged it is the retransmission timer"
        assert session.silent(0.01)


@pytest.mark.parametrize("client", CLIENTS)
def test_relay_holds_few_descriptors(relayed, client):
    session, wire = relayed(client=client)
    data = noise(1 << 20)
    assert carry((wire, session, data)) == [data]
    assert len(os.listdir(f"/proc/{session.process.pid}/fd")) <= 3 + 1 + 4 + 1


def test_what_systemd_passed_again_is_closed(relayed):
    """Fd 3 is the client's connection: an open copy would be one more thing to keep in mind at each half-close."""
    as_systemd = ("/bin/sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@" 3<&0')
    session, wire = relayed(wrapped=as_systemd)
    wire.close()
    assert session.ended()
    session.close()
    assert session.exit_status() == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signal_ends_a_session_quietly(relayed, name):
    session, wire = relayed()
    session.process.send_signal(getattr(signal, name))
    assert session.ended()
    assert wire.ended()
    session.exit_status()


def test_last_words_before_a_close_arrive(relayed):
    session, wire = relayed()
    session.send(b"z LOGOUT\r\n")
    assert wire.line() == b"z LOGOUT\r\n"
    wire.send(b"* BYE\r\nz OK\r\n")
    wire.close()
    assert session.rest() == b"* BYE\r\nz OK\r\n"
    session.close()
    assert session.exit_status() == 0


def test_client_that_sends_all_and_shuts_down_first(site, greeted, backend):
    """As `printf … | nc host 143` does."""
    from scripted import GREETING, read_login

    site.account("u1", mailhost=backend.mailhost)
    session: Session = greeted()
    session.send(b"a1 LOGIN u1 secret\r\na2 LOGOUT\r\n")
    session.half_close()
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"OK in"))
    assert wire.rest() == b"a2 LOGOUT\r\n"
    wire.send(b"* BYE\r\na2 OK\r\n")
    wire.close()
    assert session.rest() == b"a1 OK in\r\n* BYE\r\na2 OK\r\n"


def test_client_that_goes_on_talking_gets_all_of_the_goodbye(relayed):
    """What it says into a closed backend is nobody's, but must not make the kernel throw away what it has not read."""
    session, wire = relayed()
    session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    data = noise(400_000)
    wire.send(data)
    wait_until(lambda: unacknowledged(wire) == 0, "the helper has not taken all")
    wire.close()
    for _ in range(100):
        session.send(b"x NOOP\r\n" * 10)
    assert session.rest() == data


@pytest.mark.parametrize("urgent", ["client", "backend"])
def test_urgent_byte_stops_nothing(relayed, urgent):
    session, wire = relayed()
    left, right = (session, wire) if urgent == "client" else (wire, session)
    left.socket.send(b"X", socket.MSG_OOB)
    left.send(b"a9 LOGOUT\r\n")
    assert right.line() == b"a9 LOGOUT\r\n"
    used = session.cpu_seconds()
    assert right.silent(0.3)
    assert session.cpu_seconds() - used < 0.1
    left.half_close()
    assert right.ended()


def test_backend_that_dies_while_the_client_does_not_read(relayed):
    session, wire = relayed(wrapped=patched("proxyhelper.relay", LINGER=0.5, TICK=0.1))
    block = noise(1 << 18)
    while select.select([], [wire.writing], [], 0.3)[1]:
        wire.push(block)
    wire.reset()
    assert session.exit_status() == 0


def unacknowledged(wire):
    return struct.unpack("i", fcntl.ioctl(wire.socket, termios.TIOCOUTQ, bytes(4)))[0]
