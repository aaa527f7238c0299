"""The mail servers of `proxyhelper demo`, pymap in memory with one account each, and a client to talk to them."""

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, NoReturn

from .front import ending

START_SECONDS = 30.0
REPLY_SECONDS = 30.0
RETRY_SECONDS = 0.05
OUTPUT_LINES = 10
OUTPUT_BYTES = 4096

RUN_PYMAP = """\
import os, sys, threading
from pymap.main import main
sys.argv = ["pymap", *sys.stdin.readline().split()]  # one of them is a password
threading.Thread(target=lambda: os.read(0, 1) or os._exit(0), daemon=True).start()  # pymap ends with the demo
main()
"""

Tell = Callable[[str, str], object]


class Failed(Exception):
    """The demo cannot go on; `output` is what the part at fault said last."""

    def __init__(self, reason: str, output: "list[str] | None" = None) -> None:
        super().__init__(reason)
        self.output = output or []


class Mailbox:
    """An account and the server that it is on. The server's port is its own from here on."""

    def __init__(self, person: str, server: str, address: str) -> None:
        self.user = f"{person}@example.com"
        self.password = f"{person}-secret"
        self.server = server
        self.address = address
        self._reserved = socket.socket()
        try:
            self._reserved.bind((address, 0))
        except OSError as error:
            raise Failed(f"no port on {address} for {server}: {error.strerror}") from None
        self.port: int = self._reserved.getsockname()[1]
        self.mailhost = f"{address}:{self.port}"
        self.login_seconds = 0.0
        self.subject = f"You have reached {server}"

    def release(self) -> None:
        """Let a server have the port; until then connections to it are refused."""
        self._reserved.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["asyncio.Task[NoReturn]"]:
        """Serve the mailbox, with one message in it; yields the task that ends with the server. Raises Failed."""
        self.release()
        with tempfile.TemporaryFile() as output:
            server = asyncio.create_task(self._run(output))
            try:
                await self._wait_for_greeting(server, output)
                await self._fill()
                yield server
            finally:
                server.cancel()
                await asyncio.gather(server, return_exceptions=True)

    async def _run(self, output: IO[bytes]) -> NoReturn:
        """The server, until cancelled. Raises Failed when it ends by itself."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-c",
            RUN_PYMAP,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        assert process.stdin
        account = f"dict --demo-user {self.user} --demo-password {self.password}"
        process.stdin.write(f"--no-tls --host {self.address} --port {self.port} {account}\n".encode())
        status = await ending(process)
        raise Failed(f"{self.server} (pymap on {self.mailhost}) ended with status {status}", last_lines(output))

    async def _wait_for_greeting(self, server: "asyncio.Task[NoReturn]", output: IO[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                async with connected(self.address, self.port):
                    return
            except OSError:
                await asyncio.wait({server}, timeout=RETRY_SECONDS)
            if server.done():
                server.result()
        what = f"{self.server} (pymap on {self.mailhost}) does not answer within {START_SECONDS:.0f} s"
        raise Failed(what, last_lines(output))

    async def _fill(self) -> None:
        """Put the message there, and measure a login."""
        message = f"From: {self.server} <postmaster@example.com>\r\nTo: {self.user}\r\nSubject: {self.subject}\r\n\r\n"
        message += f"This message is on {self.server}, {self.mailhost}, and nowhere else.\r\n"
        started = time.monotonic()
        async with connected(self.address, self.port) as client:
            await client.command(f"LOGIN {self.user} {self.password}")
            self.login_seconds = time.monotonic() - started
            reply = await client.command(f"APPEND INBOX {{{len(message)}+}}\r\n{message}")
            if " OK " not in reply:
                raise Failed(f"{self.server} did not take a message: {reply}")


def last_lines(output: IO[bytes]) -> "list[str]":
    output.seek(max(output.seek(0, os.SEEK_END) - OUTPUT_BYTES, 0))
    return output.read().decode(errors="backslashreplace").splitlines()[-OUTPUT_LINES:]


class Client:
    """An IMAP client. What it says ("C") and hears ("S") is told to `tell`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: Tell) -> None:
        self._reader = reader
        self._writer = writer
        self._tell = tell
        self._commands = 0

    async def line(self) -> str:
        try:
            data = await asyncio.wait_for(self._reader.readline(), REPLY_SECONDS)
        except asyncio.TimeoutError:
            raise Failed(f"a server did not answer in {REPLY_SECONDS:.0f} s") from None
        if not data:
            raise Failed("a server closed the connection in place of an answer")
        return data.decode(errors="backslashreplace").rstrip("\r\n")

    async def command(self, text: str, interesting: str = "\n") -> str:
        """Send a command; the reply to it. Untagged replies are told where `interesting` is in them."""
        self._commands += 1
        tag = f"a{self._commands}"
        self._tell("C", f"{tag} {text}")
        self._writer.write(f"{tag} {text}\r\n".encode())
        while not (line := await self.line()).startswith(f"{tag} "):
            if interesting in line:
                self._tell("S", line)
        self._tell("S", line)
        return line


@asynccontextmanager
async def connected(address: str, port: int, tell: Tell = lambda who, text: None) -> AsyncIterator[Client]:
    """A client that has been greeted. Raises OSError, Failed."""
    reader, writer = await asyncio.open_connection(address, port)
    try:
        client = Client(reader, writer, tell)
        await client.line()
        yield client
    finally:
        writer.close()
