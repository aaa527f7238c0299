"""The port in front, for `proxyhelper demo`: each connection is given to a helper of its own, as inetd would."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

MAX_HELPERS = 40
"""At a time, as xinetd's `instances`; more connections wait to be accepted."""
CHUNK = 65536


class Front:
    """Helpers on a listening socket. What they write to stderr arrives in `log`, line by line."""

    def __init__(self, listener: socket.socket, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.address, self.port = listener.getsockname()
        self.log: asyncio.Queue[str] = asyncio.Queue()
        self._listener = listener
        self._command = command
        self._environment = environment
        self._free = asyncio.Semaphore(MAX_HELPERS)
        self._helpers: set[asyncio.Task[None]] = set()
        self._log, self._stderr = os.pipe()
        self._unfinished = b""
        os.set_blocking(self._log, False)
        self.accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> NoReturn:
        """Give each connection to a helper, until cancelled. Raises OSError."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._log, self._read_log)
        while True:
            await self._free.acquire()
            connection, _ = await loop.sock_accept(self._listener)
            helper = asyncio.create_task(self._serve(connection))
            self._helpers.add(helper)
            helper.add_done_callback(self._helper_ended)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(True)
            try:
                helper = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=self._stderr,
                    env=self._environment,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                self.log.put_nowait(f"ERR: cannot start {self._command[0]}: {error.strerror}")
                return
        await ending(helper)

    def _helper_ended(self, helper: "asyncio.Task[None]") -> None:
        self._helpers.discard(helper)
        self._free.release()

    def _read_log(self) -> None:
        try:
            while data := os.read(self._log, CHUNK):
                *lines, self._unfinished = (self._unfinished + data).split(b"\n")
                for line in lines:
                    self.log.put_nowait(line.decode(errors="backslashreplace"))
        except BlockingIOError:
            pass

    async def finished_log(self, patience: float) -> "list[str]":
        """The lines so far, when all helpers have ended, or after `patience` seconds."""
        if self._helpers:
            await asyncio.wait(self._helpers, timeout=patience)
        self._read_log()
        return [self.log.get_nowait() for _ in range(self.log.qsize())]

    async def close(self) -> None:
        """End the helpers and their connections."""
        tasks = [self.accepting, *self._helpers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._log)
        os.close(self._log)
        os.close(self._stderr)


async def ending(process: asyncio.subprocess.Process) -> int:
    """Wait for a process; it does not outlive whoever waits. Returns its exit status."""
    try:
        return await process.wait()
    finally:
        process._transport.close()  # type: ignore[attr-defined]  # kills it; left to __del__, the loop may be closed
        await process.wait()


@asynccontextmanager
async def fronting(port: int, command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Front]:
    """A front on `port` of 127.0.0.1 (0: any free one). Raises OSError."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setblocking(False)
        front = Front(listener, command, environment)
        try:
            yield front
        finally:
            await front.close()
