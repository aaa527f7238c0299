"""Two ends, bytes both ways, until both have closed.

Socket to socket goes through `splice`: the bytes stay in the kernel. A pipe is taken from a few spare ones when
bytes are on their way and given back as soon as the other end has taken them, so that an idle pair holds none. Other
ends (pipes, TLS) go through a buffer. A direction reads only when all that it read before is delivered: memory is
bounded by one pipe or buffer, and a slow reader slows its writer.

Each direction ends by itself. Behind the last byte of one end the other end's writing side is shut, behind TLS after a
close_notify; what is still under way in the other direction goes on. After the first end, a pair has LINGER seconds
without progress to live. Where a sink has gone, its source is read on for nobody: a socket that is closed with bytes
unread resets its peer, who may not have read all of ours.
"""

import select
import time

from .descriptors import is_socket
from .interpreter import posix, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    Bytes = bytes | memoryview

GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
LINGER = 60.0
"""Seconds without progress after one side has finished."""

FULL_READ = 1 << 16
"""The size of a pipe and of a buffer. A read of fewer bytes has taken all there was, most likely: waiting is cheaper
than asking again."""
GROWN_BUFFER = 1 << 19
"""For bulk: into TLS it goes at twice the speed of 64 KiB, for half the CPU."""
GROWN_PIPE = 1 << 20
"""For bulk: 64 KiB reach two thirds of its speed for twice the CPU. Not from the start, because Linux grants the pipes
of one unprivileged user 64 MiB in all (pipe-user-pages-soft)."""
ROUNDS = 16
"""Pieces that one direction may move before others have their turn."""

SPARE_PIPES = 16
TICK = 1.0
"""Seconds between looks at the clock while a pair lingers, or a spare pipe or the buffer waits to be dropped."""
KEEPALIVE = (("TCP_KEEPIDLE", 120), ("TCP_KEEPINTVL", 30), ("TCP_KEEPCNT", 6))

READING, WRITING, DRAINING, ENDED = "reading", "writing", "draining", "ended"


class Pipe:
    """A kernel buffer between two splices; `held` bytes are in it."""

    __slots__ = ("grown", "held", "reading", "writing")

    def __init__(self) -> None:
        self.reading, self.writing = posix.pipe2(posix.O_NONBLOCK | posix.O_CLOEXEC)
        self.grown = False
        self.held = 0

    def fill(self, source: int) -> int:
        self.held = posix.splice(source, self.writing, GROWN_PIPE, flags=posix.SPLICE_F_NONBLOCK)
        return self.held

    def drain(self, sink: int) -> int:
        moved = posix.splice(self.reading, sink, self.held, flags=posix.SPLICE_F_NONBLOCK)
        self.held -= moved
        return moved

    def grow(self) -> None:
        from fcntl import F_SETPIPE_SZ, fcntl

        self.grown = True
        try:
            fcntl(self.writing, F_SETPIPE_SZ, GROWN_PIPE)
        except OSError:
            pass  # the user's share of pipe memory is used up: a smaller pipe serves too

    def close(self) -> None:
        posix.close(self.reading)
        posix.close(self.writing)


class End:
    """An end: the descriptors to read and to write, which may be one. In clear, here; encrypted.py has the other kind.

    Reading and writing raise BlockingIOError where they would wait, OSError where the end is broken."""

    __slots__ = ("reading", "writing")

    encrypted = False
    was_cut = False  # it has ended without a goodbye, which is passed on as that
    unsent: "Bytes" = b""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self.writing = writing

    def read(self, buffer: memoryview) -> "Bytes":
        """The bytes at hand, none behind the last; good until the next read into `buffer`."""
        return buffer[: posix.readv(self.reading, (buffer,))]

    def write(self, data: "Bytes") -> int:
        """How many bytes were taken."""
        return posix.write(self.writing, data)

    def flush(self) -> None:
        """All that was taken is under way already."""

    def say_goodbye(self) -> None:
        """There is none in clear."""

    def at_end(self) -> bool:
        """Whether the next read will say, without waiting, that the end has ended or is broken."""
        return False


class Flow:
    """One direction of a pair: from end `source` to end `sink`; `moved` counts delivered bytes.

    `state` is what it waits for: to read from its source, to write to its sink, to read what nobody wants any more,
    or nothing.
    """

    __slots__ = ("_buffer", "_pipe", "_relay", "_splices", "moved", "over", "pair", "sink", "source", "state")

    def __init__(self, relay: "Relay", pair: "Pair", source: End, sink: End, first: bytes) -> None:
        self._relay = relay
        self.pair = pair
        self.source = source
        self.sink = sink
        self.moved = 0
        self.state = WRITING if first or source.at_end() else READING
        self.over = False  # all has been read; when it is delivered, the flow ends
        self._splices = _is_plain_socket(source.reading, source) and _is_plain_socket(sink.writing, sink)
        self._buffer: Bytes = first
        self._pipe: Pipe | None = None

    def move(self) -> None:
        """Move what can be moved now."""
        if self.state is DRAINING:
            self._drain()
            return
        rounds = 0
        while rounds < ROUNDS or self.source.at_end():
            rounds += 1
            if not self._delivered():
                return
            size = self._read_on()
            if self.state is not READING:
                return
            if size < FULL_READ and not self.source.at_end():
                break
        if size:
            self._delivered()

    def end(self, state: str = ENDED) -> None:
        """Forget what is under way, and tell the sink that this was all."""
        if self.state is ENDED:
            return
        self.state = state
        self._buffer = b""
        if self._pipe:
            self._pipe.close()
            self._pipe = None
        self._relay.finish_writing(self.sink.writing)
        self.pair.linger()

    def _finish(self) -> None:
        """The source has ended: when all is delivered, the sink is told so."""
        self.over = True
        if not self.source.was_cut:
            self.sink.say_goodbye()
        self._delivered()

    def _delivered(self) -> bool:
        """Deliver what was read; whether the sink has taken it all."""
        unsent = len(self.sink.unsent)
        try:
            self._deliver()
        except BlockingIOError:
            self.state = WRITING
            self._buffer = bytes(self._buffer)  # it may be the relay's, which others use meanwhile
            if len(self.sink.unsent) < unsent:
                self._note_progress()
            return False
        except OSError:  # the sink takes no more, ever
            self.end(ENDED if self.over else DRAINING)
            return False
        if self.over:
            self.end()
            return False
        self.state = READING
        return True

    def _read_on(self) -> int:
        """Read; how many bytes there are to deliver now."""
        try:
            size = self._splice_in() if self._splices else self._read()
        except BlockingIOError:
            return 0
        except OSError:  # reset, or no sign of life for long: it says no more, and will not hear more
            self.end()
            self.pair.other(self).end(DRAINING)
            return 0
        if not size:
            self._finish()
        return size

    def _read(self) -> int:
        self._buffer = self.source.read(self._relay.buffer())
        size = len(self._buffer)
        if size > FULL_READ // 2 and self.sink.encrypted:
            self._relay.grow_buffer()
        return size

    def _drain(self) -> None:
        try:
            if not posix.read(self.source.reading, FULL_READ):
                self.state = ENDED
        except BlockingIOError:
            pass
        except OSError:
            self.state = ENDED

    def _splice_in(self) -> int:
        """Splice into a pipe. `splice` stops before TCP's urgent data as if that were the end, `read` steps over it; so
        nothing is taken for the end that `read` does not call so."""
        try:
            self._pipe = self._relay.take_pipe()
        except OSError:  # no descriptors left
            return self._read()
        try:
            size = self._pipe.fill(self.source.reading)
        except BlockingIOError:
            size = 0
        finally:
            self._give_back_empty_pipe()
        if size >= FULL_READ and self._pipe and not self._pipe.grown:
            self._pipe.grow()
        return size or self._read_spliced()

    def _read_spliced(self) -> int:
        self._buffer = posix.read(self.source.reading, FULL_READ)
        return len(self._buffer)

    def _deliver(self) -> None:
        while self._buffer:
            written = self.sink.write(self._buffer)
            self._buffer = self._buffer[written:]
            self._count(written)
        self.sink.flush()
        while self._pipe and self._pipe.held:
            self._count(self._pipe.drain(self.sink.writing))
        self._give_back_empty_pipe()

    def _give_back_empty_pipe(self) -> None:
        if self._pipe and not self._pipe.held:
            self._relay.give_back_pipe(self._pipe)
            self._pipe = None

    def _count(self, written: int) -> None:
        self.moved += written
        self._note_progress()

    def _note_progress(self) -> None:
        if self.pair.deadline is not None:
            self.pair.linger()


class Pair:
    """A client's end, a backend's, and the two flows between them. One descriptor may serve both ways."""

    __slots__ = ("backend", "client", "deadline", "from_client", "to_client")

    def __init__(self, relay: "Relay", client: End, backend: End, to_client: bytes, to_backend: bytes) -> None:
        self.client = client
        self.backend = backend
        self.deadline: float | None = None
        self.from_client = Flow(relay, self, client, backend, to_backend)
        self.to_client = Flow(relay, self, backend, client, to_client)

    def other(self, flow: Flow) -> Flow:
        return self.to_client if flow is self.from_client else self.from_client

    def flows(self) -> "tuple[Flow, Flow]":
        return self.from_client, self.to_client

    def linger(self) -> None:
        """Live on for LINGER seconds from now."""
        self.deadline = time.monotonic() + LINGER

    def descriptors(self) -> "set[int]":
        return {end.reading for end in (self.client, self.backend)} | {
            end.writing for end in (self.client, self.backend)
        }

    def interest(self, descriptor: int) -> int:
        """What the flows wait for at `descriptor`, as epoll names it."""
        interest = 0
        for flow in self.flows():
            if flow.state in (READING, DRAINING) and flow.source.reading == descriptor:
                interest |= select.EPOLLIN
            elif flow.state is WRITING and flow.sink.writing == descriptor:
                interest |= select.EPOLLOUT
            elif flow.state is WRITING and flow.source.reading == descriptor and self.deadline is None:
                interest |= select.EPOLLRDHUP
        return interest

    def waiting(self) -> "tuple[str, str, bool]":
        """What decides which events the pair waits for."""
        return self.from_client.state, self.to_client.state, self.deadline is None

    def ended(self) -> bool:
        return self.from_client.state is ENDED and self.to_client.state is ENDED


class Relay:
    """Moves the bytes of any number of pairs."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pairs: dict[int, Pair] = {}  # by descriptor
        self._interest: dict[int, int] = {}  # by descriptor; 0: not registered, so that a hang-up wakes nobody
        self._lingering: set[Pair] = set()
        self._spare_pipes: list[Pipe] = []
        self._buffer: memoryview | None = None

    def add(self, client: End, backend: End, to_client: bytes = b"", to_backend: bytes = b"") -> Pair:
        """Relay between two ends; `to_client` and `to_backend` go first."""
        pair = Pair(self, client, backend, to_client, to_backend)
        for descriptor in pair.descriptors():
            posix.set_blocking(descriptor, False)
            _set_socket_options(descriptor)
            self._pairs[descriptor] = pair
            self._interest[descriptor] = 0
        self._update(pair)
        return pair

    def run(self) -> None:
        """Until the last pair has ended."""
        while self._pairs:
            self._turn()
        self._drop_spares()
        self._epoll.close()

    def buffer(self) -> memoryview:
        """For whoever reads, until the next one does."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(FULL_READ))
        return self._buffer

    def grow_buffer(self) -> None:
        if len(self.buffer()) < GROWN_BUFFER:
            self._buffer = memoryview(bytearray(GROWN_BUFFER))

    def take_pipe(self) -> Pipe:
        return self._spare_pipes.pop() if self._spare_pipes else Pipe()

    def give_back_pipe(self, pipe: Pipe) -> None:
        if len(self._spare_pipes) < SPARE_PIPES:
            self._spare_pipes.append(pipe)
        else:
            pipe.close()

    def finish_writing(self, descriptor: int) -> None:
        """Tell the reader behind `descriptor` that nothing more comes."""
        if is_socket(descriptor):
            _shut_down_writing(descriptor)
            return
        self._wait_for(descriptor, 0)
        null = posix.open("/dev/null", posix.O_RDWR)  # keeps the number from going to somebody else
        posix.dup2(null, descriptor)
        posix.close(null)

    def _turn(self) -> None:
        events = self._epoll.poll(TICK if self._spare_pipes or self._buffer or self._lingering else None)
        if not events:
            self._drop_spares()
        for descriptor, event in events:
            if pair := self._pairs.get(descriptor):
                before = pair.waiting()
                self._move(pair, descriptor, event)
                if pair.waiting() != before:
                    self._update(pair)
        if self._lingering:
            self._end_overdue()

    def _move(self, pair: Pair, descriptor: int, event: int) -> None:
        for flow in pair.flows():
            reads, writes = flow.source.reading == descriptor, flow.sink.writing == descriptor
            if flow.state is WRITING:
                if writes and event & ~select.EPOLLIN:
                    flow.move()
                elif reads and event & GONE:
                    pair.linger()  # it will never be read to its end where the sink takes nothing
            elif flow.state is not ENDED and reads and event & ~select.EPOLLOUT:
                flow.move()

    def _update(self, pair: Pair) -> None:
        """Wait for what the pair's flows wait for, or see it off."""
        for descriptor in pair.descriptors():
            self._wait_for(descriptor, pair.interest(descriptor))
        if pair.deadline is not None:
            self._lingering.add(pair)
        if pair.ended():
            self._lingering.discard(pair)
            for descriptor in pair.descriptors():
                del self._pairs[descriptor], self._interest[descriptor]

    def _wait_for(self, descriptor: int, interest: int) -> None:
        before = self._interest[descriptor]
        if before == interest:
            return
        self._interest[descriptor] = interest
        if not before:
            self._epoll.register(descriptor, interest)
        elif interest:
            self._epoll.modify(descriptor, interest)
        else:
            self._epoll.unregister(descriptor)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for pair in [pair for pair in self._lingering if pair.deadline is not None and pair.deadline < now]:
            for flow in pair.flows():
                flow.end()
            self._update(pair)

    def _drop_spares(self) -> None:
        self._buffer = None
        while self._spare_pipes:
            self._spare_pipes.pop().close()


def _is_plain_socket(descriptor: int, end: End) -> bool:
    return not end.encrypted and is_socket(descriptor)


def _set_socket_options(descriptor: int) -> None:
    """Notice a peer that has vanished, and send small replies at once."""
    if not is_socket(descriptor):
        return
    end = socket.socket(fileno=descriptor)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in KEEPALIVE:
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        pass  # not TCP
    finally:
        end.detach()


def _shut_down_writing(descriptor: int) -> None:
    end = socket.socket(fileno=descriptor)
    try:
        end.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the peer has gone already
    finally:
        end.detach()
