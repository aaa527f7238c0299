"""What file descriptors are open on, and whether they are ready."""

from .interpreter import posix

S_IFMT, S_IFSOCK, S_IFCHR = 0o170000, 0o140000, 0o020000  # inode(7)
POLLIN, POLLOUT = 1, 4  # poll(2)


def is_socket(descriptor: int) -> bool:
    return posix.fstat(descriptor).st_mode & S_IFMT == S_IFSOCK


def same_file(one: int, other: int) -> bool:
    """Whether two descriptors are open on the same thing; a closed one is on nothing."""
    try:
        first, second = posix.fstat(one), posix.fstat(other)
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def is_ready(descriptor: int, event: int, seconds: float) -> bool:
    """Whether `descriptor` can be read (POLLIN) or written (POLLOUT) within `seconds`."""
    import select

    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(seconds * 1000))
