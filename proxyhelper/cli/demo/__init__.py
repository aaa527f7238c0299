"""`proxyhelper demo`: whether it can run here, and its end."""

import asyncio
import importlib.util
import signal
import stat
import sys
from os import fstat

import click

from ..console import NO, clean, fail

PYMAP_PYTHON = (3, 11)
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TIDYING_SECONDS = 5.0


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the helper. [default: a free one]")
def demo(port: int) -> None:
    """See it work: two IMAP servers in memory, and the helper in front of them.

    All of it is on this host's loopback and in a temporary directory, needs no root, and is gone after Ctrl-C.
    """
    if sys.version_info[:2] < PYMAP_PYTHON:
        needed = ".".join(map(str, PYMAP_PYTHON))
        fail(f"the demo's IMAP servers (pymap) need Python {needed} or later; this is {sys.version.split()[0]}", NO)
    if importlib.util.find_spec("pymap") is None:
        fail("the demo needs pymap, an IMAP server in memory: pip install 'proxyhelper[demo]'", NO)
    from .mailboxes import Failed

    try:
        came_to_its_end = asyncio.run(perform(port))
    except Failed as failure:
        for line in failure.output:
            click.echo("    " + clean(line), err=True)
        fail(str(failure), NO)
    except BrokenPipeError:
        raise  # click ends quietly
    except OSError as error:
        fail(f"the demo cannot go on: {error}", NO)
    click.echo("\nThe servers are stopped, the configuration is removed.")
    if not came_to_its_end:
        fail("the demo was stopped before its end", NO)


async def perform(port: int) -> bool:
    """Tell the story until a signal comes or nobody reads it any longer. True if it came to the live log. Raises
    Failed."""
    from .story import tell

    live = asyncio.Event()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOPPING:
        loop.add_signal_handler(number, stop.set)
    watch_reader(loop, stop)
    telling = asyncio.create_task(tell(port, live))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
    came_to_the_log = live.is_set()
    while not telling.done():
        telling.cancel()  # Python 3.11's wait_for may lose one; another signal does not disturb the tidying up
        await asyncio.wait({telling}, timeout=TIDYING_SECONDS)
    if not telling.cancelled():
        telling.result()
    return came_to_the_log


def watch_reader(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when stdout is a pipe and its reader has gone."""
    if sys.stdout is None:  # closed from the start
        return
    output = sys.stdout.fileno()

    def gone() -> None:
        loop.remove_reader(output)
        stop.set()

    if stat.S_ISFIFO(fstat(output).st_mode):
        loop.add_reader(output, gone)
