"""EXTERNAL (RFC 4422 appendix A) before login: the name that a client certificate has proved."""

import pytest
from dialogues import b64, play, serving

from proxyhelper.dialogue import imap, pop3
from proxyhelper.dialogue.events import LoginRefused

COMMANDS = {imap: b"a AUTHENTICATE EXTERNAL%b\r\n", pop3: b"AUTH EXTERNAL%b\r\n"}
NAME = "jörg@example.com"


@pytest.fixture(params=[imap, pop3], ids=["imap", "pop3"])
def protocol(request):
    return request.param


@pytest.fixture
def server(protocol):
    return serving(protocol.Server, NAME, mechanisms=["PLAIN", "EXTERNAL"])


@pytest.fixture(params=["initial", "asked for"])
def ask(request, protocol):
    """The exchange with a response, sent at once or when it is asked for."""

    def exchange(response):
        if request.param == "initial":
            return COMMANDS[protocol] % (b" " + (b64(response) or b"="))
        return COMMANDS[protocol] % b"" + b64(response) + b"\r\n"

    return exchange


@pytest.mark.parametrize("size", [1, 1 << 16])
@pytest.mark.parametrize("authzid", ["", NAME])
def test_login(server, ask, authzid, size):
    said, (login,) = play(server, ask(authzid), size)
    assert said in (b"", b"+ \r\n")
    assert (login.user, login.password, login.cram, login.external) == (NAME, b"", None, True)


@pytest.mark.parametrize(
    "authzid", ["admin", NAME.upper(), NAME + " ", NAME + "\0", "\0", NAME[:-1], b"j\xf6rg@example.com"]
)
def test_acting_for_somebody_else_is_a_failed_login(server, ask, authzid):
    _, (login,) = play(server, ask(authzid))
    assert (login.user, login.password, login.external) == ("", b"", False)


def test_nobody_logs_in_without_an_identity(protocol, ask):
    _, (login,) = play(serving(protocol.Server, "", mechanisms=["EXTERNAL"]), ask(""))
    assert not login.external


@pytest.mark.parametrize("response", [b"*", b"?", b"anTDtnJn="])
def test_cancelled_or_not_base64(protocol, server, response):
    said, events = play(server, COMMANDS[protocol] % b"" + response + b"\r\n")
    assert said.splitlines()[1].startswith(b"a BAD " if protocol is imap else b"-ERR ")
    assert not events


def test_not_where_it_is_not_offered(protocol, ask):
    server = serving(protocol.Server, NAME)
    said, events = play(server, COMMANDS[protocol] % b"")
    assert said == server.prefix + protocol.Server.REPLIES["mechanism"] + b"\r\n"
    assert not events


def test_not_without_the_tls_that_is_required(protocol):
    server = serving(protocol.Server, NAME, mechanisms=["EXTERNAL"], login_allowed=False)
    _, (event,) = play(server, COMMANDS[protocol] % b" =")
    assert isinstance(event, LoginRefused)


def test_other_mechanisms_prove_nothing_of_the_certificate(protocol, server):
    command = COMMANDS[protocol].replace(b"EXTERNAL", b"PLAIN") % (b" " + b64(f"\0{NAME}\0x"))
    _, (login,) = play(server, command)
    assert (login.user, login.password, login.external) == (NAME, b"x", False)
