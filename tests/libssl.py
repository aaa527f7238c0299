"""One end of a TLS connection on OpenSSL's library itself: what Python's `ssl` cannot be made to do, on command.

Key updates, renegotiation, half a close_notify's worth of courtesy, and records that are made but not sent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import time
from ctypes import byref, c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p
from ctypes.util import find_library
from pathlib import Path

from support import DEADLINE, Wire, need, wait_for

TLS12, TLS13 = 0x0303, 0x0304
WANT_READ, ZERO_RETURN = 2, 6
PENDING, SET_MIN_VERSION, SET_MAX_VERSION = 10, 123, 124
PEM = 1


class CutOff(EOFError):
    """The connection has ended without a close_notify."""


class TlsError(Exception):
    """The peer's alert, or what is wrong with its records, in OpenSSL's words."""


def library(name: str) -> ctypes.CDLL:
    found = find_library(name)
    need(found is not None, f"lib{name}")
    return ctypes.CDLL(found)


def _functions() -> ctypes.CDLL:
    crypto, ssl = library("crypto"), library("ssl")
    for name in ("SSL_CTX_new", "TLS_client_method", "TLS_server_method", "SSL_new"):
        getattr(ssl, name).restype = c_void_p
    for name in ("BIO_new", "BIO_s_mem"):
        setattr(ssl, name, getattr(crypto, name))
        getattr(ssl, name).restype = c_void_p
    for name in ("BIO_read", "BIO_write"):
        setattr(ssl, name, getattr(crypto, name))
        getattr(ssl, name).argtypes = [c_void_p, c_char_p, c_int]
    ssl.BIO_ctrl = crypto.BIO_ctrl
    ssl.BIO_ctrl.argtypes = [c_void_p, c_int, c_long, c_void_p]
    ssl.ERR_get_error = crypto.ERR_get_error
    ssl.ERR_get_error.restype = c_ulong
    ssl.ERR_reason_error_string = crypto.ERR_reason_error_string
    ssl.ERR_reason_error_string.argtypes = [c_ulong]
    ssl.ERR_reason_error_string.restype = c_char_p
    ssl.SSL_CTX_ctrl.argtypes = [c_void_p, c_int, c_long, c_void_p]
    ssl.SSL_read_ex.argtypes = [c_void_p, c_char_p, c_size_t, c_void_p]
    ssl.SSL_write_ex.argtypes = [c_void_p, c_char_p, c_size_t, c_void_p]
    return ssl


class Peer(Wire):
    """A Wire behind TLS, which begins with it: the client's end, or with a certificate (file of both) the server's.

    `push` takes no more while ciphertext waits to be sent, so that whoever uses it never blocks."""

    def __init__(self, under: Wire, certificate: Path | None = None, version: int = TLS13, shake: bool = True) -> None:
        self.under = under
        self.socket, self.reading, self.writing = under.socket, under.reading, under.writing
        self.received = bytearray()
        self.closed = False  # the peer has said close_notify
        self._lib = lib = _functions()
        method = lib.TLS_server_method if certificate else lib.TLS_client_method
        self._context = c_void_p(lib.SSL_CTX_new(c_void_p(method())))
        for limit in (SET_MIN_VERSION, SET_MAX_VERSION):
            lib.SSL_CTX_ctrl(self._context, limit, version, None)
        if certificate:
            file = str(certificate).encode()
            assert lib.SSL_CTX_use_certificate_chain_file(self._context, file) == 1
            assert lib.SSL_CTX_use_PrivateKey_file(self._context, file, PEM) == 1
        self._tls = c_void_p(lib.SSL_new(self._context))
        memory = c_void_p(lib.BIO_s_mem())
        self._incoming, self._outgoing = c_void_p(lib.BIO_new(memory)), c_void_p(lib.BIO_new(memory))
        lib.SSL_set_bio(self._tls, self._incoming, self._outgoing)
        (lib.SSL_set_accept_state if certificate else lib.SSL_set_connect_state)(self._tls)
        self.unsent = b""
        if shake:
            self.shake_hands()

    def shake_hands(self) -> None:
        while not self.step():
            self.flush()
            assert self.under.fill(), "closed in the handshake"
            self.feed(self.under.take(len(self.under.received)))
        self.flush()
        self.decrypt()  # what came behind it

    def step(self, ciphertext: bytes = b"") -> bool:
        """Whether the handshake is complete; what is to be sent for it is `sealed`."""
        self.feed(ciphertext)
        return self._done(self._lib.SSL_do_handshake(self._tls))

    def sealed(self, data: bytes = b"") -> bytes:
        """Ciphertext of `data` behind what is to be sent anyway: for the test to send, or not to."""
        taken = c_size_t()
        if data:
            assert self._lib.SSL_write_ex(self._tls, data, len(data), byref(taken)) == 1, self._error()
            assert taken.value == len(data)
        size = self._lib.BIO_ctrl(self._outgoing, PENDING, 0, None)
        buffer = ctypes.create_string_buffer(size or 1)
        assert self._lib.BIO_read(self._outgoing, buffer, size) == size or not size
        return buffer.raw[:size]

    def goodbye(self) -> bytes:
        """The ciphertext of a close_notify; nothing is read, unlike by Python's."""
        self._lib.SSL_shutdown(self._tls)
        return self.sealed()

    def update_key(self, answer: bool = False) -> None:
        """Queue a new key of ours; `answer`: and ask for a new one of the peer's."""
        assert self._lib.SSL_key_update(self._tls, int(answer)) == 1, self._error()
        assert self._lib.SSL_do_handshake(self._tls) == 1, self._error()
        self.unsent += self.sealed()

    def renegotiate(self) -> None:
        """Queue a request for a new handshake."""
        assert self._lib.SSL_renegotiate(self._tls) == 1, self._error()
        self._done(self._lib.SSL_do_handshake(self._tls))
        self.unsent += self.sealed()

    def push(self, data: bytes | memoryview) -> int:
        self.try_to_flush()
        if self.unsent:
            return 0
        self.unsent = self.sealed(bytes(data[: 1 << 17]))
        self.try_to_flush()
        return min(len(data), 1 << 17)

    def send(self, data: bytes, within: float = DEADLINE) -> None:
        super().send(data, within)
        self.flush(within)

    def try_to_flush(self) -> bool:
        """Whether all is under way."""
        self.unsent += self.sealed()
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[os.write(self.writing, self.unsent[: 1 << 18]) :]
        return not self.unsent

    def flush(self, within: float = DEADLINE) -> None:
        end = time.monotonic() + within
        while not self.try_to_flush():
            wait_for(self.writing, select.POLLOUT, end)

    def pull(self) -> bool:
        if self.closed:
            return False
        if not self.under.pull():
            raise CutOff(f"after {bytes(self.received[-100:])!r}")
        self.feed(self.under.take(len(self.under.received)))
        self.decrypt()
        return not self.closed

    def fill(self, within: float = DEADLINE) -> bool:
        return False if self.closed else super().fill(within)

    def half_close(self) -> None:
        """Say close_notify; the connection below stays open."""
        self.unsent += self.goodbye()
        self.flush()

    def close(self) -> None:
        if self._tls:
            self._lib.SSL_free(self._tls)
            self._lib.SSL_CTX_free(self._context)
            self._tls = c_void_p()
        self.under.close()

    def feed(self, ciphertext: bytes) -> None:
        if ciphertext:
            assert self._lib.BIO_write(self._incoming, ciphertext, len(ciphertext)) == len(ciphertext)

    def decrypt(self) -> None:
        buffer, size = ctypes.create_string_buffer(1 << 16), c_size_t()
        while self._done(self._lib.SSL_read_ex(self._tls, buffer, len(buffer), byref(size))):
            self.received += buffer.raw[: size.value]
        self.unsent += self.sealed()

    def _done(self, result: int) -> bool:
        if result == 1:
            return True
        error = self._lib.SSL_get_error(self._tls, result)
        if error == ZERO_RETURN:
            self.closed = True
        elif error != WANT_READ:
            raise TlsError(self._error())
        return False

    def _error(self) -> str:
        reasons = []
        while code := self._lib.ERR_get_error():
            reasons.append((self._lib.ERR_reason_error_string(code) or b"?").decode())
        return "; ".join(reasons)
