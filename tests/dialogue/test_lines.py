"""Lines and commands come out whole, however the stream is cut, and never take a byte that is not theirs."""

import pytest

from proxyhelper.dialogue.lines import MAX_COMMAND, CommandBuffer, LineBuffer, TooLong, literal_size

LOGIN = b'a LOGIN {2}\r\nu1 {3+}\r\nabc "q"\r\n'


def feed(buffer, stream, size):
    """Commands out of a stream cut into pieces of `size`, as a peeking reader sees them, and the bytes left."""
    commands, at = [], 0
    while at < len(stream):
        taken, command = buffer.take(stream[at : at + size])
        at += taken
        assert taken > 0
        if command is not None:
            commands.append(command)
    return commands


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_in_pieces(size):
    assert feed(LineBuffer(), b"USER u1\r\nPASS x\n\r\n", size) == [b"USER u1\r\n", b"PASS x\n", b"\r\n"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_commands_in_pieces(size):
    assert feed(CommandBuffer(), b"x NOOP\r\n" + LOGIN + b"y NOOP\n", size) == [b"x NOOP\r\n", LOGIN, b"y NOOP\n"]


def test_takes_no_more_than_the_first_command():
    assert CommandBuffer().take(LOGIN + b"b NOOP\r\n")[0] == len(b"a LOGIN {2}\r\n"), "it waits for a continuation"
    buffer = CommandBuffer()
    assert buffer.take(b"a NOOP\r\nb NOOP\r\n") == (8, b"a NOOP\r\n")


def test_prompts_for_synchronizing_literals_only():
    buffer = CommandBuffer()
    buffer.take(b"a LOGIN {2}\r\n")
    assert buffer.prompt
    buffer.take(b"u1 {3+}\r\n")
    assert not buffer.prompt
    assert buffer.take(b"abc\r\nrest")[1] == b"a LOGIN {2}\r\nu1 {3+}\r\nabc\r\n"


def test_literal_of_nothing():
    assert feed(CommandBuffer(), b"a LOGIN {0}\r\n {0+}\r\n\r\n", 100) == [b"a LOGIN {0}\r\n {0+}\r\n\r\n"]


@pytest.mark.parametrize(
    "stream", [b"x" * (MAX_COMMAND + 1), b"a LOGIN {16384}\r\n", b"a LOGIN {99999999999999999999+}\r\n"]
)
@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_bounds(stream, size):
    with pytest.raises(TooLong):
        feed(CommandBuffer(), stream, size)


def test_bound_covers_all_literals_together():
    with pytest.raises(TooLong):
        feed(CommandBuffer(), b"{4000+}\r\n" + (b"x" * 4000 + b"{4000+}\r\n") * 5, 1 << 20)


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"a {5}\r\n", (5, True)),
        (b"a {5+}\r\n", (5, False)),
        (b"{0}\n", (0, True)),
        (b"a {}\r\n", None),
        (b"a {+}\r\n", None),
        (b"a 5}\r\n", None),
        (b"a {-5}\r\n", None),
        (b"a {5} \r\n", None),
        (b"a {5++}\r\n", None),
        (b"}\r\n", None),
        (b"\r\n", None),
    ],
)
def test_literal_size(line, size):
    assert literal_size(line) == size
