"""A password or the response to a challenge against what an account source has."""

import hashlib
import hmac

import pytest
from support import hashed

from proxyhelper.accounts.account import Account
from proxyhelper.accounts.proofs import HASHES, Password, Response
from proxyhelper.dialogue.greetings import CRAM_MECHANISMS
from proxyhelper.failures import Temporary, WrongCredentials

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"


def account(stored=b"", cleartext=b""):
    return Account("tim", stored, cleartext=cleartext, options={})


def response(mechanism, secret, challenge=CHALLENGE, name=b"tim"):
    return name + b" " + hmac.new(secret, challenge, HASHES[mechanism]).hexdigest().encode()


@pytest.mark.parametrize(
    ("stored", "cleartext"),
    [
        (hashed("right").encode(), b""),
        (b"", b"right"),
        (hashed("right").encode(), b"other"),
        (hashed("right").encode(), b"right"),
    ],
    ids=["hash", "cleartext", "hash before another cleartext", "both"],
)
def test_right_password(stored, cleartext):
    Password(b"right").check(account(stored, cleartext))


@pytest.mark.parametrize(
    ("stored", "cleartext", "given"),
    [
        (hashed("right").encode(), b"", b"wrong"),
        (b"", b"right", b"wrong"),
        (b"", b"right", b"righ"),
        (b"", b"right", b"right "),
        (b"", b"right", b"Right"),
        (b"", b"right", b""),
        (b"", b"", b""),
        (b"", b"", b"right"),
        (hashed("right").encode(), b"cleartext", b"cleartext"),
        (hashed("").encode(), b"", b""),
        (b"", hashed("right").encode(), b"right"),
    ],
    ids=str,
)
def test_wrong_password(stored, cleartext, given):
    with pytest.raises(WrongCredentials, match=r"^wrong password$"):
        Password(given).check(account(stored, cleartext))


@pytest.mark.parametrize("secret", ["wörd".encode(), b"w\xf6rd", b"a b\tc", b'"\\', b"x" * 1000], ids=str)
def test_cleartext_of_any_bytes(secret):
    Password(secret).check(account(cleartext=secret))
    for mechanism in CRAM_MECHANISMS:
        Response(mechanism, CHALLENGE, response(mechanism, secret)).check(account(cleartext=secret))


def test_stored_hash_that_cannot_be_checked_here(monkeypatch):
    def crypt(password, setting):
        raise ImportError("no libcrypt")

    monkeypatch.setattr("proxyhelper.accounts.passwords.crypt", crypt)
    with pytest.raises(Temporary):
        Password(b"right").check(account(b"$6$x$y", b"right"))


def test_example_of_rfc_2195():
    answer = b"tim b913a602c7eda7a495b4e6e7334d3890"
    Response("CRAM-MD5", CHALLENGE, answer).check(account(cleartext=b"tanstaaftanstaaf"))
    assert response("CRAM-MD5", b"tanstaaftanstaaf") == answer


def test_every_mechanism_has_its_hash():
    assert tuple(HASHES) == CRAM_MECHANISMS
    assert [hashlib.new(name).digest_size for name in HASHES.values()] == [16, 20, 32]


@pytest.mark.parametrize("mechanism", CRAM_MECHANISMS)
def test_right_response(mechanism):
    found = account(cleartext=b"right")
    Response(mechanism, CHALLENGE, response(mechanism, b"right")).check(found)
    Response(mechanism, CHALLENGE, response(mechanism, b"right", name=b"tim of reston")).check(found)
    name, _, digest = response(mechanism, b"right").partition(b" ")
    Response(mechanism, CHALLENGE, name + b" " + digest.upper()).check(found)


@pytest.mark.parametrize("mechanism", CRAM_MECHANISMS)
def test_wrong_response(mechanism):
    right = response(mechanism, b"right")
    other = next(name for name in CRAM_MECHANISMS if name != mechanism)
    for given in (
        response(mechanism, b"wrong"),
        response(mechanism, b""),
        response(mechanism, b"right", b"<another@challenge>"),
        response(other, b"right"),
        right[:-1],
        right[:-1] + b"g",
        right + b"0",
        right + b" ",
        right.replace(b" ", b"\t"),
        b"tim right",
        b"tim ",
        b"tim",
        b" ",
        b"",
        b"tim \xff\xfe",
        b"tim \0",
    ):
        with pytest.raises(WrongCredentials, match=f"^wrong response to {mechanism}$"):
            Response(mechanism, CHALLENGE, given).check(account(cleartext=b"right"))


@pytest.mark.parametrize("mechanism", CRAM_MECHANISMS)
@pytest.mark.parametrize("stored", [b"", b"right", hashed("right").encode()], ids=["nothing", "in clear", "hash"])
def test_without_cleartext_no_response_is_right(mechanism, stored):
    """Nor one made with an empty key, or with the hash."""
    for key in (b"", b"right", stored):
        with pytest.raises(WrongCredentials, match=f"^{mechanism} needs a cleartext password"):
            Response(mechanism, CHALLENGE, response(mechanism, key)).check(account(stored))


def test_nothing_shows_what_is_secret():
    proofs = [Password(b"s3cret"), Response("CRAM-MD5", CHALLENGE, b"tim s3cret"), account(cleartext=b"s3cret")]
    assert not [proof for proof in proofs if "s3cret" in repr(proof) + str(proof)]
    for proof in proofs[:2]:
        with pytest.raises(WrongCredentials) as raised:
            proof.check(account(cleartext=b"other s3cret"))
        assert "s3cret" not in str(raised.value)
