"""From the greeting to the end of a connection that nobody logs in on."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from pathlib import Path

import pytest
from support import CAPABILITY, DEADLINE, Session, Site, b64, command, environment, patched

PROTOCOLS = ("imap", "pop3")
CLIENTS = ("tcp", "tcp6", "mapped", "socketpair", "pipes")
OWN_CAPABILITIES = {"SASL-IR", "ID"}
AS_SYSTEMD = ("/bin/sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=connection exec "$0" "$@" 3<&0')


def capabilities(line: bytes) -> list[str]:
    listed = re.search(rb"CAPABILITY ([^\]\r]+)", line)
    assert listed, line
    return listed[1].decode().split()


def capa(session: Session) -> list[str]:
    session.send(b"CAPA\r\n")
    lines = session.until(b".\r\n")
    assert lines[0].startswith(b"+OK")
    return [line.decode().removesuffix("\r\n") for line in lines[1:-1]]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_greets_and_says_goodbye(helper, protocol, client):
    session = helper(protocol, client=client)
    assert session.line().startswith(b"* OK [CAPABILITY IMAP4rev1 " if protocol == "imap" else b"+OK ")
    session.send(b"a LOGOUT\r\n" if protocol == "imap" else b"QUIT\r\n")
    if protocol == "imap":
        assert session.line().startswith(b"* BYE ")
        assert session.line().startswith(b"a OK ")
    else:
        assert session.line().startswith(b"+OK")
    assert session.ended()
    assert session.exit_status() == 0


def test_greeting_lists_what_is_configured_and_what_the_helper_can_do(helper):
    listed = capabilities(helper().line())
    assert set(CAPABILITY.split()) <= set(listed) <= set(CAPABILITY.split()) | OWN_CAPABILITIES | {"AUTH=LOGIN"}
    assert len(listed) == len(set(listed))


def test_capability_command_says_the_same_as_the_greeting(helper):
    session = helper()
    greeting = session.line()
    session.send(b"x1 capability\r\n")
    untagged, tagged = session.until(b"x1 ")
    assert untagged.startswith(b"* CAPABILITY ")
    assert tagged.startswith(b"x1 OK")
    assert capabilities(untagged) == capabilities(greeting)


def test_mechanisms_are_those_that_are_listed_and_can_be_done(site, helper):
    site.set(IMAP_CAPABILITY="IMAP4rev1 AUTH=CRAM-MD5 AUTH=X-UNHEARD-OF IDLE", POP3AUTH="CRAM-SHA1 X-UNHEARD-OF")
    listed = capabilities(helper().line())
    assert [word for word in listed if word.startswith("AUTH=")] == ["AUTH=PLAIN", "AUTH=LOGIN", "AUTH=CRAM-MD5"]
    assert "IDLE" in listed
    session = helper("pop3")
    session.line()
    assert "SASL PLAIN LOGIN CRAM-SHA1" in capa(session)


def test_acl_setting_adds_its_capabilities(site, helper):
    site.set(IMAP_ACL=1)
    assert {"ACL", "ACL2=UNION"} <= set(capabilities(helper().line()))


@pytest.mark.parametrize("setting", ["IMAP4rev1 IDLE", "IMAP4rev1 IDLE LITERAL+"])
def test_literal_plus_is_shown_only_if_listed(site, helper, setting):
    site.set(IMAP_CAPABILITY=setting)
    assert ("LITERAL+" in capabilities(helper().line())) == ("LITERAL+" in setting)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_starttls_is_not_offered(site, greeted, helper, protocol):
    site.set(IMAPDSTARTTLS="YES", IMAP_STARTTLS="YES", POP3_STARTTLS="YES")
    if protocol == "imap":
        assert "STARTTLS" not in capabilities(helper().line())
    else:
        assert "STLS" not in capa(greeted("pop3"))


def test_capa_lists_courier_s_and_response_codes(greeted):
    listed = capa(greeted("pop3"))
    assert {"TOP", "USER", "UIDL", "PIPELINING", "RESP-CODES", "AUTH-RESP-CODE"} <= set(listed)


def test_auth_alone_lists_mechanisms(greeted):
    session = greeted("pop3")
    session.send(b"AUTH\r\n")
    first, *mechanisms, last = session.until(b".")
    assert first.startswith(b"+OK")
    assert last == b".\r\n"
    assert b"PLAIN\r\n" in mechanisms


@pytest.mark.parametrize("tag", [b"a", b"A0001", b"1", b"x" * 60, b"a.b-c/d:e", b"]"])
def test_tag_comes_back_as_it_was(greeted, tag):
    session = greeted()
    session.send(tag + b" NOOP\r\n")
    assert session.line().startswith(tag + b" OK")


@pytest.mark.parametrize(
    "line",
    [
        b"+ NOOP",
        b"a+b NOOP",
        b"* NOOP",
        b"a(b NOOP",
        b'"a" NOOP',
        b"a{1 NOOP",
        b"a%b NOOP",
        b"a\\b NOOP",
        b"\xc3\xa4 NOOP",
        b"a\x01 NOOP",
        b" NOOP",
        b"",
        b"a",
    ],
)
def test_what_is_no_tag_is_not_repeated(greeted, line):
    session = greeted()
    session.send(line + b"\r\nok NOOP\r\n")
    *answers, last = session.until(b"ok ")
    assert last.startswith(b"ok OK")
    assert len(answers) == 1
    assert answers[0].startswith((b"* BAD", b"a BAD"))


def test_id_is_answered(greeted):
    session = greeted()
    session.send(b'a ID ("name" "mailer" "version" NIL)\r\n')
    untagged, tagged = session.until(b"a ")
    assert untagged.startswith(b"* ID ")
    assert tagged.startswith(b"a OK")


def test_commands_for_later_are_refused_and_the_dialogue_goes_on(greeted):
    session = greeted()
    session.send(b"a SELECT INBOX\r\nb NOOP\r\n")
    first, second = session.until(b"b ")
    assert first.startswith((b"a BAD", b"a NO"))
    assert second.startswith(b"b OK")
    session = greeted("pop3")
    session.send(b"STAT\r\nLANG\r\nQUIT\r\n")
    assert session.line().startswith(b"-ERR")
    assert session.rest().endswith(b"\r\n")


@pytest.mark.parametrize(
    ("client", "address"), [("tcp", "::ffff:127.0.0.1"), ("mapped", "::ffff:127.0.0.1"), ("tcp6", "::1")]
)
def test_address_of_an_internet_socket_is_its_own(helper, client, address):
    """Whatever the environment claims."""
    session = helper(client=client, env={"TCPREMOTEIP": "192.0.2.1", "TCPREMOTEPORT": "1"})
    port = session.socket.getsockname()[1]
    assert f"Connection, ip=[{address}], port=[{port}]" in session.log.find("Connection")


@pytest.mark.parametrize("client", ["socketpair", "pipes"])
@pytest.mark.parametrize(
    ("env", "said"),
    [
        (
            {"TCPREMOTEIP": "192.0.2.1", "TCPREMOTEPORT": "4711", "REMOTE_ADDR": "192.0.2.2"},
            "ip=[::ffff:192.0.2.1], port=[4711]",
        ),
        ({"TCPREMOTEIP": "::ffff:192.0.2.1", "TCPREMOTEPORT": "4711"}, "ip=[::ffff:192.0.2.1], port=[4711]"),
        (
            {"REMOTE_ADDR": "192.0.2.2", "REMOTE_PORT": "4712", "REMOTE_HOST": "192.0.2.3"},
            "ip=[::ffff:192.0.2.2], port=[4712]",
        ),
        ({"REMOTE_ADDR": "2001:db8::1", "REMOTE_PORT": "4712"}, "ip=[2001:db8::1], port=[4712]"),
        ({"REMOTE_HOST": "::ffff:192.0.2.3"}, "ip=[::ffff:192.0.2.3]"),
    ],
)
def test_address_of_other_connections_is_what_the_activator_says(helper, client, env, said):
    assert said in helper(client=client, env=env).log.find("Connection")


def test_no_address_at_all_is_served_too(helper):
    session = helper(client="pipes")
    assert session.line().startswith(b"* OK")
    assert "ip=[" in session.log.find("Connection")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_connection_that_systemd_passes_twice_is_a_connection(helper, protocol):
    session = helper(protocol, wrapped=AS_SYSTEMD)
    assert session.line().startswith((b"* OK", b"+OK"))
    session.send(b"a LOGOUT\r\n" if protocol == "imap" else b"QUIT\r\n")
    assert session.rest().endswith(b"\r\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_listener_is_no_connection(site, protocol):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        done = subprocess.run(
            command(protocol),
            stdin=listener,
            stdout=listener,
            stderr=subprocess.PIPE,
            env=environment(site, {"LISTEN_FDS": "1"}),
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode != 0
        assert b"listening" in done.stderr
        assert b"Traceback" not in done.stderr
        listener.accept()[0].close()
        assert client.recv(1) == b""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("option", "said"), [("--help", "LOCAL-SERVER"), ("--version", "proxyhelper")])
def test_options(site, protocol, option, said):
    done = subprocess.run(
        [*command(protocol), option],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
        env=environment(site, {}),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


@pytest.mark.parametrize("client", ["tcp", "pipes"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_login_deadline(helper, protocol, client):
    """However busily the client talks."""
    session = helper(protocol, client=client, wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=0.5))
    session.line()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while not session.readable(0.05) or session.pull():
            session.push(b"a NOOP\r\n" if protocol == "imap" else b"NOOP\r\n")
    session.close()
    lines = bytes(session.received).splitlines()
    if protocol == "imap":
        assert lines[-1].startswith(b"* BYE")
    assert session.exit_status() == 0


@pytest.mark.parametrize("goodbye", [b"a LOGOUT\r\n", b"QUIT\r\n"])
def test_goodbye_is_heard_whatever_comes_behind_it(greeted, goodbye):
    session = greeted("imap" if b"LOGOUT" in goodbye else "pop3")
    session.send(goodbye + b"b NOOP\r\n" * 1000)
    assert session.rest().splitlines()[-1].startswith((b"a OK", b"+OK"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_login_deadline_is_for_one_endless_line_too(helper, protocol):
    session = helper(protocol, wrapped=patched("proxyhelper.reception", LOGIN_SECONDS=0.5))
    session.line()
    session.send(b"a LOGIN u1 ")
    assert session.rest().startswith(b"* BYE" if protocol == "imap" else b"")


INSECURE = {"imap": b"a LOGIN u1 secret\r\n", "pop3": b"USER u1\r\nPASS secret\r\n"}
AUTHENTICATE = {
    "imap": b"a AUTHENTICATE PLAIN " + b64("", "u1", "secret") + b"\r\n",
    "pop3": b"AUTH PLAIN " + b64("", "u1", "secret") + b"\r\n",
}


@pytest.mark.parametrize("attempt", [INSECURE, AUTHENTICATE], ids=["password", "sasl"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_required_tls_refuses_every_login_in_clear(site, helper, backend, protocol, attempt):
    site.set(IMAP_TLS_REQUIRED=1, POP3_TLS_REQUIRED=1)
    site.account("u1", mailhost=backend.mailhost)
    session = helper(protocol)
    greeting = session.line()
    session.send(attempt[protocol])
    if protocol == "imap":
        assert "LOGINDISABLED" in capabilities(greeting)
        assert session.line().startswith(b"a NO [PRIVACYREQUIRED]")
    else:
        assert session.line().startswith(b"-ERR [SYS/PERM]")
    session.half_close()
    session.rest()
    assert backend.untouched()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_required_tls_is_satisfied_by_the_activator_s(site, helper, backend, protocol):
    site.set(IMAP_TLS_REQUIRED=1, POP3_TLS_REQUIRED=1)
    site.account("u1", mailhost=backend.mailhost)
    session = helper(protocol, env={f"{protocol.upper()}_TLS": "1"})
    greeting = session.line()
    assert b"LOGINDISABLED" not in greeting
    session.send(INSECURE[protocol])
    backend.accept()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_in_a_file_is_not_believed(site, helper, protocol):
    """Only the activator knows whether this connection is encrypted."""
    site.set(IMAP_TLS_REQUIRED=1, POP3_TLS_REQUIRED=1, IMAP_TLS=1, POP3_TLS=1)
    site.account("u1")
    session = helper(protocol)
    session.line()
    session.send(AUTHENTICATE[protocol])
    assert session.line().startswith((b"a NO [PRIVACYREQUIRED]", b"-ERR [SYS/PERM]"))


def test_settings_come_from_the_environment_before_the_files(site: Site, helper):
    site.set(IMAP_CAPABILITY="IMAP4rev1 FROM-FILE")
    assert "FROM-ENVIRONMENT" in capabilities(helper(env={"IMAP_CAPABILITY": "IMAP4rev1 FROM-ENVIRONMENT"}).line())
    assert "FROM-FILE" in capabilities(helper().line())


def test_main_file_overrides_the_ssl_file(site: Site, helper):
    (site.directory / "imapd-ssl").write_text('IMAP_CAPABILITY="IMAP4rev1 SSL-FILE"\n')
    assert "SSL-FILE" not in capabilities(helper().line())
    Path(site.directory / "imapd").unlink()
    assert "SSL-FILE" in capabilities(helper().line())
