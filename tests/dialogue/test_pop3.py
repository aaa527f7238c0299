"""POP3 before login, byte by byte."""

import pytest
from dialogues import b64, login_of, play, serving

from proxyhelper.dialogue.events import Abuse, LoginRefused, Logout, Reply, StartTls
from proxyhelper.dialogue.greetings import Offer, greeting
from proxyhelper.dialogue.pop3 import Server


@pytest.fixture
def server():
    return serving(Server)


def test_greeting():
    assert greeting("pop3", Offer()) == b"+OK proxyhelper POP3 server ready.\r\n"
    assert greeting("pop3", Offer(trusted=True)) == b"+OK [XCLIENT] proxyhelper POP3 server ready.\r\n"


@pytest.mark.parametrize("size", [1, 5, 1 << 16])
@pytest.mark.parametrize(
    ("commands", "user", "password"),
    [
        (b"USER u1\r\nPASS secret\r\n", "u1", b"secret"),
        (b"user u1\npass secret\n", "u1", b"secret"),
        (b"USER  u1 \r\nPASS  two  blanks \r\n", "u1", b" two  blanks "),
        (b"USER u1\r\nPASS\r\n", "u1", b""),
        ("USER jörg\r\nPASS пароль\r\n".encode(), "jörg", "пароль".encode()),
        (b"AUTH PLAIN " + b64("\0u1\0secret") + b"\r\n", "u1", b"secret"),
        (b"AUTH plain\r\n" + b64("\0u1\0secret") + b"\r\n", "u1", b"secret"),
        (b"AUTH LOGIN\r\n" + b64("u1") + b"\r\n" + b64("secret") + b"\r\n", "u1", b"secret"),
        (b"AUTH PLAIN =\r\n", "", b""),
    ],
)
def test_logins(server, size, commands, user, password):
    assert login_of(server, commands, size) == (user, password)
    assert server.refused("credentials").startswith(b"-ERR [AUTH] ")


def test_capa(server):
    said, _ = play(server, b"CAPA\r\n")
    lines = said.decode().splitlines()
    assert lines[0].startswith("+OK")
    assert lines[-1] == "."
    assert {
        "SASL PLAIN LOGIN",
        "TOP",
        "USER",
        "UIDL",
        "PIPELINING",
        "UTF8 USER",
        "LANG",
        "RESP-CODES",
        "AUTH-RESP-CODE",
    } < set(lines)
    assert "STLS" not in lines


def test_auth_lists_mechanisms(server):
    assert play(server, b"AUTH\r\n")[0].splitlines()[1:] == [b"PLAIN", b"LOGIN", b"."]


@pytest.mark.parametrize(
    "command",
    [
        b"PASS x\r\n",
        b"STAT\r\n",
        b"\r\n",
        b"AUTH PLAIN !\r\n",
        b"LANG xx\r\n",
        b"\xff\0\r\n",
        b"STLS\r\n",
        b"APOP u1 x\r\n",
    ],
)
def test_bad_commands(server, command):
    said, events = play(server, command)
    assert said.startswith(b"-ERR ")
    assert said.count(b"\r\n") == 1
    assert not events


def test_user_counts_once(server):
    play(server, b"USER u1\r\nPASS wrong\r\n")
    assert play(server, b"PASS again\r\n")[0].startswith(b"-ERR ")


def test_cancelled_and_unknown_mechanisms(server):
    assert play(server, b"AUTH PLAIN\r\n*\r\n")[0].splitlines()[1].startswith(b"-ERR ")
    assert play(server, b"AUTH CRAM-MD5\r\n")[0].startswith(b"-ERR ")


def test_utf8_and_lang(server):
    assert not server.utf8
    assert play(server, b"UTF8\r\n")[0].startswith(b"+OK")
    assert server.utf8
    assert play(server, b"LANG\r\n")[0].endswith(b"i-default Default language\r\n.\r\n")
    assert play(server, b"LANG *\r\n")[0].startswith(b"+OK en ")


def test_quit(server):
    said, (event,) = play(server, b"QUIT\r\n")
    assert said.startswith(b"+OK")
    assert isinstance(event, Logout)


@pytest.mark.parametrize("command", [b"USER u1\r\n", b"AUTH PLAIN\r\n", b"AUTH LOGIN dTE=\r\n"])
def test_no_login_without_the_tls_that_is_required(command):
    server = serving(Server, login_allowed=False)
    said, (event,) = play(server, command)
    assert said.startswith(b"-ERR [SYS/PERM] ")
    assert isinstance(event, LoginRefused)
    assert not {b"SASL PLAIN LOGIN", b"USER"} & set(play(server, b"CAPA\r\n")[0].splitlines())
    assert play(server, b"PASS x\r\n")[0].startswith(b"-ERR ")


def test_stls():
    server = serving(Server, starttls=True, login_allowed=False)
    assert b"STLS" in play(server, b"CAPA\r\n")[0].splitlines()
    said, (event,) = play(server, b"STLS\r\n")
    assert said == b"+OK Begin TLS negotiation now.\r\n"
    assert isinstance(event, StartTls)


def test_bytes_behind_stls_are_left_alone():
    assert serving(Server, starttls=True).feed(b"stls\r\nUSER u1\r\n")[0] == len(b"stls\r\n")


def test_stls_that_cannot_be():
    server = serving(Server, starttls=True)
    play(server, b"USER u1\r\nSTLS\r\n")
    assert server.refused("tls") == b"-ERR [SYS/TEMP] TLS is temporarily unavailable. Try again later.\r\n"
    assert login_of(server, b"PASS x\r\n") == ("u1", b"x"), "the dialogue goes on"


def test_stls_where_it_is_not_offered_is_an_unknown_command(server):
    said, events = play(server, b"STLS\r\n")
    assert said == play(server, b"NONSENSE\r\n")[0]
    assert not events


def test_bounds(server):
    assert isinstance(play(server, b"X\r\n" * 10)[1][-1], Abuse)
    said, (event,) = play(serving(Server), b"PASS " + b"x" * 20000)
    assert said.startswith(b"-ERR ")
    assert isinstance(event, Abuse)


def test_backend_s_reply_is_the_client_s(server):
    assert server.answered(Reply(True, b"+OK 3 messages\r\n", after=b"extra")) == b"+OK 3 messages\r\nextra"


@pytest.mark.parametrize(("commands", "utf8"), [(b"", "0"), (b"UTF8\r\n", "1")])
def test_what_a_local_server_is_told(server, commands, utf8):
    play(server, commands)
    assert server.local_environment() == {"PROTOCOL": "POP3", "UTF8": utf8}
