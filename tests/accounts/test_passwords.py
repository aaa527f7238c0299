"""Every form in which Courier stores a password, and nothing else, matches."""

import base64
import hashlib
import sys

import pytest

from proxyhelper import interpreter
from proxyhelper.accounts.passwords import matches

PASSWORD = b"secret1"
CRYPTED = {  # made by Courier's userdbpw and authpasswd, mkpasswd and passlib
    "DES": b"bwBet41QmmZVE",
    "MD5": b"$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0",
}


def b64(data):
    return base64.b64encode(data)


STORED = {
    **CRYPTED,
    "{CRYPT}": b"{CRYPT}" + CRYPTED["MD5"],
    "{MD5}": b"{MD5}" + b64(hashlib.md5(PASSWORD).digest()),
    "{md5}": b"{md5}" + b64(hashlib.md5(PASSWORD).digest()),
    "{MD5RAW} as authpasswd makes it": b"{MD5RAW}e52d98c459819a11775936d8dfbb7929",
    "{MD5RAW} in base64": b"{MD5RAW}" + b64(hashlib.md5(PASSWORD).digest()),
    "{SHA}": b"{SHA}" + b64(hashlib.sha1(PASSWORD).digest()),
    "{SHA256}": b"{SHA256}" + b64(hashlib.sha256(PASSWORD).digest()),
    "{SHA512}": b"{SHA512}" + b64(hashlib.sha512(PASSWORD).digest()),
    "{SSHA}": b"{SSHA}" + b64(hashlib.sha1(PASSWORD + b"salt").digest() + b"salt"),
}
SETTINGS = [
    b"$1$saltsalt$",
    b"$2b$04$abcdefghijklmnopqrstuu",
    b"$5$rounds=1000$salt$",
    b"$6$rounds=1000$salt$",
    b"$y$j75$saltsalt$",
]


@pytest.mark.parametrize("form", STORED)
def test_stored_forms(form):
    assert matches(STORED[form], PASSWORD)
    assert not matches(STORED[form], PASSWORD + b"x")
    assert not matches(STORED[form], b"")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("password", [PASSWORD, "пароль".encode(), b"\xff\xfe"])
def test_every_crypt_the_c_library_knows(setting, password):
    stored = interpreter.crypt(password, setting)
    assert stored.startswith(setting)
    assert matches(stored, password)
    assert not matches(stored, password[:-1])


@pytest.mark.parametrize("setting", SETTINGS)
def test_libcrypt_by_ctypes_agrees(setting, monkeypatch):
    expected = interpreter.crypt(PASSWORD, setting)
    monkeypatch.setitem(sys.modules, "_crypt", None)
    assert interpreter.crypt(PASSWORD, setting) == expected


@pytest.mark.parametrize("private", [("_md5", "_sha1", "_sha2", "_sha256", "_sha512")])
def test_hashlib_stands_in_for_the_private_modules(private, monkeypatch):
    for name in private:
        monkeypatch.setitem(sys.modules, name, None)
    for name in interpreter.HASH_MODULES:
        assert interpreter.digest(name, PASSWORD) == hashlib.new(name, PASSWORD).digest()


NEVER = """
    * ! *0 *1 x secret1 {PLAIN}secret1 {MD5} {MD5}! {SHA} {SSHA} {SSHA}c2FsdA== {CRYPT} {CRYPT}*0 {MD5RAW} { {} {MD5
    $9$what$ever $6$ !$1$382gRnUT$72N2ts7kxr6ZbWGfXmBXF0
"""


@pytest.mark.parametrize("stored", [b"", b"\xff\xfe", *NEVER.encode().split()])
@pytest.mark.parametrize("given", [PASSWORD, b"*0", b"*1", b"x", b"\xff"])
@pytest.mark.parametrize("modules", ["_crypt", "ctypes"])
def test_what_never_matches(stored, given, modules, monkeypatch):
    if modules == "ctypes":
        monkeypatch.setitem(sys.modules, "_crypt", None)
    assert not matches(stored, given)
