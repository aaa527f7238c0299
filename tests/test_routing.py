"""COURIER.md's decision."""

import pytest

from proxyhelper import routing
from proxyhelper.accounts.account import Account
from proxyhelper.failures import Temporary
from proxyhelper.settings import load


@pytest.fixture
def decide(tmp_path, monkeypatch):
    monkeypatch.setattr(routing, "socket", FakeSocket)

    def run(mailhost, served_port="143", protocol="imap", **environment):
        account = Account("u1", b"x", options={} if mailhost is None else {"mailhost": mailhost})
        return routing.decide(
            account,
            load(protocol, {"PROXYHELPER_CONFDIR": str(tmp_path), "IMAP_PROXY": "1", "POP3_PROXY": "1", **environment}),
            served_port,
        )

    return run


class FakeSocket:
    """Host name and services of a host that the tests know."""

    gethostname = staticmethod(lambda: "front.example.com")
    getservbyname = staticmethod(lambda name, _: {"imap": 143, "pop3": 110}[name])


HERE = {
    "proxy off": ("a.example", {"IMAP_PROXY": "0"}),
    "no mailhost": (None, {}),
    "empty mailhost": ("", {}),
    "host name": ("front.example.com", {}),
    "host name, spelt otherwise": ("FRONT.Example.Com.", {}),
    "PROXY_HOSTNAME": ("me", {"PROXY_HOSTNAME": "ME."}),
    "host name beside PROXY_HOSTNAME": ("front.example.com", {"PROXY_HOSTNAME": "me"}),
    "with the usual port": ("front.example.com:143", {}),
    "with the port served": ("front.example.com:1143", {"served_port": "1143"}),
}


@pytest.mark.parametrize("case", HERE)
def test_here(decide, case):
    mailhost, environment = HERE[case]
    route = decide(mailhost, **environment)
    assert route.host == ""
    assert route.reason


@pytest.mark.parametrize("mailhost", [None, "", "  "])
def test_no_mailhost_is_told_apart(decide, mailhost):
    assert decide(mailhost).is_missing
    assert not decide(mailhost, IMAP_PROXY="0").is_missing


@pytest.mark.parametrize(
    ("mailhost", "host", "port"),
    [
        ("a.example", "a.example", 143),
        ("front", "front", 143),
        ("a.example:1143", "a.example", 1143),
        ("front.example.com:1143", "front.example.com", 1143),
        ("192.0.2.1", "192.0.2.1", 143),
        ("[2001:db8::1]:1143", "2001:db8::1", 1143),
        ("[2001:db8::1]", "2001:db8::1", 143),
        ("2001:db8::1", "2001:db8::1", 143),
        ("::1", "::1", 143),
    ],
)
def test_elsewhere(decide, mailhost, host, port):
    route = decide(mailhost)
    assert (route.host, route.port) == (host, port)


def test_ports_of_a_site(decide):
    assert decide("a.example", IMAP_PROXY_PORT="1143").port == 1143
    assert decide("a.example:2143", IMAP_PROXY_PORT="1143").port == 2143
    assert decide("a.example", protocol="pop3").port == 110
    assert decide("a.example", protocol="pop3", POP3_PROXY_PORT="1110", IMAP_PROXY_PORT="1143").port == 1110


@pytest.mark.parametrize(
    "mailhost",
    [
        "a.example:0",
        "a.example:65536",
        "a.example:x",
        "a.example:-1",
        "[::1",
        "[::1]x",
        ":143",
        "[]:143",
        "a b",
        "a\tb",
        "a.example\r\nX",
        "ä.example",
        "x" * 300,
        "a/b",
        "a@b",
    ],
)
def test_mailhosts_that_cannot_be(decide, mailhost):
    with pytest.raises(Temporary, match="mailhost"):
        decide(mailhost)
