"""What a proxy tells of its client, as a server half takes it and as a client half puts it."""

import pytest
from dialogues import play, serving

from proxyhelper.dialogue import forwarding, imap, pop3
from proxyhelper.dialogue.events import Forwarded, Login

IMAP_NAMES = {
    "ip": "x-originating-ip",
    "port": "x-originating-port",
    "local_ip": "x-connected-ip",
    "local_port": "x-connected-port",
    "session": "x-session-id",
    "ttl": "x-proxy-ttl",
}
POP3_NAMES = {
    "ip": "ADDR",
    "port": "PORT",
    "local_ip": "DESTADDR",
    "local_port": "DESTPORT",
    "session": "SESSION",
    "ttl": "TTL",
}
ALL = {
    "ip": "2001:db8::7",
    "port": "40000",
    "local_ip": "192.0.2.1",
    "local_port": "143",
    "session": "aZ09+/=_-.,",
    "ttl": "4",
}
NOTHING = {"ip": "", "port": "", "local_ip": "", "local_port": "", "session": "", "ttl": None}
PROTOCOLS = pytest.mark.parametrize("protocol", [imap, pop3])


def command(protocol, fields):
    if protocol is imap:
        listed = " ".join(f'"{IMAP_NAMES.get(name, name)}" "{value}"' for name, value in fields.items())
        return f"a ID ({listed})\r\n".encode("latin-1")
    listed = " ".join(f"{POP3_NAMES.get(name, name)}={value}" for name, value in fields.items())
    return f"XCLIENT {listed}\r\n".encode("latin-1")


def told(protocol, fields, trusted=True, change=lambda line: line):
    """What the server half makes of `fields`: its answer, and what was told."""
    said, events = play(serving(protocol.Server, trusted=trusted), change(command(protocol, fields)))
    assert len(events) <= 1
    return said, attributes(*events)


def attributes(forwarded=None):
    return forwarded and {name: getattr(forwarded, name) for name in Forwarded.__slots__}


@PROTOCOLS
@pytest.mark.parametrize("change", [bytes, bytes.upper, bytes.lower])
def test_trusted_proxy(protocol, change):
    said, forwarded = told(protocol, ALL, change=change)
    assert b"OK" in said
    expected = {name: change(value.encode()).decode() for name, value in ALL.items()}
    assert forwarded == {**expected, "ttl": 4}


@PROTOCOLS
@pytest.mark.parametrize("name", ALL)
def test_a_single_field(protocol, name):
    _, forwarded = told(protocol, {name: ALL[name]})
    assert forwarded == {**NOTHING, name: 4 if name == "ttl" else ALL[name]}


@PROTOCOLS
def test_of_others_only_the_ttl_is_taken(protocol):
    _, forwarded = told(protocol, ALL, trusted=False)
    assert forwarded == {**NOTHING, "ttl": 4}
    assert told(protocol, {**ALL, "ttl": "x"}, trusted=False)[1] is None


@PROTOCOLS
@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("fields", [{}, {"name": "Thunderbird", "version": "1"}, {"ip": "", "ttl": ""}])
def test_nothing_told(protocol, trusted, fields):
    assert told(protocol, fields, trusted)[1] is None


def test_id_is_answered_as_ever():
    """Trusted or not, told or malformed: it tells nothing about the trust."""
    answers = {told(imap, fields, trusted)[0] for fields in (ALL, {"ttl": "x"}) for trusted in (True, False)}
    assert answers == {b'* ID ("name" "proxyhelper")\r\na OK ID completed.\r\n'}


@pytest.mark.parametrize("name", ["ip", "port", "local_ip", "local_port", "session"])
@pytest.mark.parametrize("value", ["", "well-formed or not", "1"])
def test_xclient_of_others_is_refused_where_it_names_more(name, value):
    said, forwarded = told(pop3, {"ttl": "3", name: value}, trusted=False)
    assert said.startswith(b"-ERR ")
    assert forwarded == {**NOTHING, "ttl": 3}


@pytest.mark.parametrize("fields", [{}, {"ttl": "3"}, {"ttl": "x"}, {"HELO": "x"}])
def test_xclient_of_others_is_accepted_with_less(fields):
    assert told(pop3, fields, trusted=False)[0].startswith(b"+OK ")


@pytest.mark.parametrize("line", [b"XCLIENT\r\n", b"XCLIENT  \r\n", b"XCLIENT ADDR TTL\r\n", b"XCLIENT = =1 TTL==\r\n"])
def test_odd_xclient(line):
    said, events = play(serving(pop3.Server, trusted=True), line)
    assert said.startswith(b"+OK ")
    assert not events


def test_nil_is_nothing():
    assert not play(serving(imap.Server, trusted=True), b'a ID ("x-proxy-ttl" NIL "x-originating-ip" NIL)\r\n')[1]


MALFORMED = [
    *(("ip", value) for value in ("1.2.3.4%eth0", "host.example", "[::1]", "1" * 46, "\xb9.2.3.4")),
    ("local_ip", "fe80::1%eth0"),
    *(("port", value) for value in ("0", "65536", "99999", "100000", "-1", "+1", "1.0", "0x1", "\xb2")),
    *(("local_port", value) for value in ("0", "imap")),
    *(("session", value) for value in ("x" * 65, "\xfc", "a\x7f", "a\x01")),
    *(("ttl", value) for value in ("256", "-1", "1.5", "x", "99999999999999999999", "\xb2", "1e1")),
]


@PROTOCOLS
@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_malformed_fields_are_left_out(protocol, name, value):
    other = "session" if name != "session" else "port"
    _, forwarded = told(protocol, {name: value, other: ALL[other]})
    assert forwarded == {**NOTHING, other: ALL[other]}


@pytest.mark.parametrize(
    "field",
    [("session", 'a\\"b'), ("session", r"a\\b"), ("session", "a b"), ("session", "a\t"), ("ip", "::1 "), ("ttl", " 1")],
)
def test_malformed_in_ways_that_only_id_can_say(field):
    assert told(imap, dict([field]))[1] is None


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"1\r\n"])
def test_literals_that_hold_lines(value):
    line = b'a ID ("x-session-id" {%d+}\r\n%b "x-proxy-ttl" {%d+}\r\n%b)\r\n' % (len(value), value, len(value), value)
    assert not play(serving(imap.Server, trusted=True), line)[1]


@PROTOCOLS
@pytest.mark.parametrize(("name", "longest"), [("ip", "f" * 45), ("session", "~" * 64), ("port", "65535")])
def test_bounds_are_within(protocol, name, longest):
    assert told(protocol, {name: longest})[1][name] == longest


@PROTOCOLS
@pytest.mark.parametrize(("said", "ttl"), [("0", 0), ("1", 1), ("255", 255), ("007", 7)])
def test_ttl(protocol, said, ttl):
    assert told(protocol, {"ttl": said}, trusted=False)[1]["ttl"] == ttl


@PROTOCOLS
def test_login_goes_on_behind_it(protocol):
    login = b"b LOGIN u1 x\r\n" if protocol is imap else b"USER u1\r\nPASS x\r\n"
    _, events = play(serving(protocol.Server), command(protocol, ALL) + login)
    assert [type(event) for event in events] == [Forwarded, Login]


def test_xclient_does_not_forget_the_user():
    _, events = play(serving(pop3.Server, trusted=True), b"USER u1\r\n" + command(pop3, ALL) + b"PASS x\r\n")
    assert events[1].user == "u1"


FORWARDED = {**ALL, "ttl": 4}


def test_commands():
    assert forwarding.id_command(Forwarded(**FORWARDED)) == (
        b'ID ("x-originating-ip" "2001:db8::7" "x-originating-port" "40000" "x-connected-ip" "192.0.2.1" '
        b'"x-connected-port" "143" "x-session-id" "aZ09+/=_-.," "x-proxy-ttl" "4")'
    )
    assert forwarding.xclient_command(Forwarded(**FORWARDED)) == (
        b"XCLIENT ADDR=2001:db8::7 PORT=40000 DESTADDR=192.0.2.1 DESTPORT=143 SESSION=aZ09+/=_-., TTL=4"
    )


def test_commands_without_anything_to_tell():
    assert forwarding.id_command(Forwarded()) == b""
    assert forwarding.xclient_command(Forwarded()) == b""


def test_commands_name_only_what_there_is():
    assert forwarding.id_command(Forwarded(ttl=0)) == b'ID ("x-proxy-ttl" "0")'
    assert forwarding.xclient_command(Forwarded(session="s", ttl=1)) == b"XCLIENT SESSION=s TTL=1"


@pytest.mark.parametrize("text", ["a\r\nb LOGIN x y", "a\nb", "a\0b", 'a"b', "a\\b", "a b", "ü", "\udcff"])
@pytest.mark.parametrize("name", ["ip", "port", "local_ip", "local_port", "session"])
def test_nothing_breaks_out_of_a_command(name, text):
    forwarded = Forwarded(**{name: text})
    assert forwarding.id_command(forwarded) == b""
    assert forwarding.xclient_command(forwarded) == b""


@PROTOCOLS
def test_what_is_sent_is_what_is_taken(protocol):
    make = forwarding.id_command if protocol is imap else forwarding.xclient_command
    line = (b"a " if protocol is imap else b"") + make(Forwarded(**FORWARDED)) + b"\r\n"
    _, (forwarded,) = play(serving(protocol.Server, trusted=True), line)
    assert attributes(forwarded) == FORWARDED
