"""`proxyhelper lookup`: an account, its way, and why; never its password."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Site, admin, hashed

HASH = hashed("secret")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Add = Callable[..., int]


@pytest.fixture
def lookup(run: Run) -> Run:
    def find(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        done = run("lookup", *arguments, **options)
        assert HASH not in done.stdout + done.stderr
        assert HASH[5:] not in done.stdout + done.stderr
        return done

    return find


def values(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What each line of the text says, by its first word."""
    return {line.split()[0]: line.split(None, 1)[1] for line in done.stdout.splitlines()}


def test_fields(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", options="a=1,b", quota="1000S", shell="/bin/false")
    done = lookup("u1")
    assert (done.returncode, done.stderr) == (0, "")
    assert values(done) == {
        "address": "u1",
        "password": "{SHA}",
        "uid": "1000",
        "gid": "1000",
        "home": "/nonexistent",
        "maildir": "/nonexistent/Maildir",
        "quota": "1000S",
        "options": "mailhost=servera.example,a=1,b",
        "IMAP": "to servera.example port 143: mailhost servera.example is another host",
        "POP3": "to servera.example port 110: mailhost servera.example is another host",
    }


def test_json(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example:1143")
    answer = json.loads(lookup("u1", "--json").stdout)
    assert set(answer) == {"imap", "pop3"}
    for one in answer.values():
        assert one["account"]["address"] == "u1"
        assert one["account"]["uid"] == 1000
        assert one["account"]["options"] == "mailhost=servera.example:1143"
        assert one["route"] == {
            "host": "servera.example",
            "port": 1143,
            "tls": "no",
            "reason": "mailhost servera.example is another host",
        }
        assert one["failure"] is None


def test_here(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="Front.Example")
    assert values(lookup("u1"))["IMAP"] == "to the local server: mailhost Front.Example is this host (PROXY_HOSTNAME)"


def test_without_mailhost(site: Site, lookup: Run) -> None:
    site.account("u1")
    assert values(lookup("u1"))["POP3"] == "to the local server: the account has no mailhost"


def test_proxy_off(site: Site, add: Add, lookup: Run) -> None:
    add("imapd", "IMAP_PROXY=0")
    site.account("u1", mailhost="servera.example")
    assert values(lookup("u1"))["IMAP"] == "to the local server: IMAP_PROXY is off"
    assert "servera.example" in values(lookup("u1"))["POP3"]


def test_proxy_port(site: Site, add: Add, lookup: Run) -> None:
    add("imapd", "IMAP_PROXY_PORT=1143")
    site.account("u1", mailhost="servera.example")
    assert values(lookup("u1"))["IMAP"].startswith("to servera.example port 1143")


def test_default_domain(site: Site, add: Add, lookup: Run) -> None:
    for name in ("imapd", "pop3d"):
        add(name, "DEFDOMAIN=@example.com")
    site.account("u1@example.com", mailhost="servera.example")
    assert values(lookup("u1"))["address"] == "u1@example.com"
    assert values(lookup("u1@example.com"))["address"] == "u1@example.com"
    assert lookup("u1@elsewhere.example").returncode == 1


def test_default_options(site: Site, write_file: Callable[..., Path], lookup: Run) -> None:
    write_file("authdaemonrc", 'DEFAULTOPTIONS="mailhost=servera.example,wbnodsn=1"')
    site.account("u1")
    assert values(lookup("u1"))["options"] == "mailhost=servera.example,wbnodsn=1"


def test_one_service_disabled(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", options="disablepop3=1")
    done = lookup("u1")
    assert done.returncode == 0
    assert values(done)["POP3"] == "no login: the account has the option disablepop3"
    answer = json.loads(lookup("u1", "--json").stdout)
    assert answer["pop3"]["failure"] == {"kind": "disabled", "reason": "the account has the option disablepop3"}


def test_both_services_disabled(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", options="disablepop3=1,disableimap=t")
    assert lookup("u1").returncode == 77


def test_only_over_tls(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", options="disableinsecureimap=1")
    ways = values(lookup("u1"))
    assert ways["IMAP"].startswith("to servera.example port 143: ")
    assert ways["IMAP"].endswith("; only for clients behind TLS (disableinsecureimap)")
    assert "TLS" not in ways["POP3"]
    with (site.directory / "pop3d").open("a") as settings:
        settings.write("POP3_TLS_REQUIRED=1\n")
    assert values(lookup("u1"))["POP3"].endswith("; only for clients behind TLS (POP3_TLS_REQUIRED)")


@pytest.mark.parametrize(("mode", "way"), [("no", "143"), ("starttls", "143 with STARTTLS"), ("yes", "993 with TLS")])
def test_tls_towards_the_backend(site: Site, lookup: Run, mode: str, way: str) -> None:
    site.account("u1", mailhost="servera.example", options=f"mailhosttls={mode}")
    assert values(lookup("u1"))["IMAP"].startswith(f"to servera.example port {way}: ")
    assert json.loads(lookup("u1", "--json").stdout)["imap"]["route"]["tls"] == mode


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_unknown(site: Site, lookup: Run, extra: list[str]) -> None:
    done = lookup("u2", *extra)
    assert done.returncode == 1
    assert "no such account" in done.stdout + done.stderr
    assert extra or done.stdout == ""


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_source_of_everybody(site: Site, lookup: Run, extra: list[str]) -> None:
    site.account("u1")
    site.userdb.chmod(0o644)
    done = lookup("u1", *extra)
    assert done.returncode == 75
    assert "0644" in done.stdout + done.stderr
    assert "chmod go=" in done.stdout + done.stderr


def test_no_source(site: Site, lookup: Run) -> None:
    site.userdb.unlink()
    done = lookup("u1")
    assert done.returncode == 75
    assert str(site.userdb) in done.stderr


def test_broken_record(site: Site, lookup: Run) -> None:
    site.account("u1", uid="x")
    done = lookup("u1")
    assert done.returncode == 75
    assert "uid='x'" in done.stderr


@pytest.mark.parametrize("extra", [[], ["--json"]])
@pytest.mark.parametrize(("file", "broken"), [("imapd", "imap"), ("pop3d", "pop3")])
def test_one_configuration_broken(site: Site, add: Add, lookup: Run, file: str, broken: str, extra: list[str]) -> None:
    site.account("u1", mailhost="servera.example")
    number = add(file, "PROXY_TIMEOUT=soon") and add(file, "no assignment")
    done = lookup("u1", *extra)
    assert done.returncode == 0, "the other protocol's clients are let in"
    said = json.loads(done.stdout)[broken]["failure"]["reason"] if extra else values(done)[broken.upper()]
    assert f"{site.directory / file} line {number}" in said
    assert "servera.example" in done.stdout


def test_both_configurations_broken(site: Site, add: Add, lookup: Run) -> None:
    add("authdaemonrc", "no assignment")
    done = lookup("u1")
    assert done.returncode in (75, 78)
    assert "authdaemonrc line 2" in done.stderr


def test_password_of_one_service(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", systempw=None, pop3pw=HASH)
    answer = json.loads(lookup("u1", "--json").stdout)
    assert answer["imap"]["account"]["password"] == "none"
    assert answer["pop3"]["account"]["password"] == "{SHA}"
    done = lookup("u1")
    assert done.returncode == 0
    assert values(done)["IMAP"].startswith("no login"), "as check says of it"


def test_no_password_at_all(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="servera.example", systempw=None)
    assert lookup("u1").returncode == 1, "no password is the right one"


@pytest.mark.parametrize(
    ("stored", "form"),
    [
        ("$y$j9T$abcdefgh$z58epSA0.WKoneg38aaKy0kCf2IhW6ntqplgqsGRZw9", "yescrypt"),
        ("$2b$05$abcdefghijklmnopqrstuuNSTmiLxLtEHrGECwcrALMTJgFsTigL2", "bcrypt"),
        ("$1$ab$y/Aq7M2/RWj/OJ9uitNOu1", "MD5 crypt"),
        ("{CRYPT}abWmMCvyOXAnA", "traditional crypt"),
        ("{ssha}cyy1DSsp8htHWuMRIU8YoBan9yBzYWx0", "{SSHA}"),
        ("secret-in-clear", "unknown"),
    ],
)
def test_password_form(site: Site, lookup: Run, stored: str, form: str) -> None:
    site.account("u1", mailhost="servera.example", systempw=stored)
    done = lookup("u1")
    assert form in values(done)["password"]
    assert stored not in done.stdout
    assert stored.rpartition("$")[2].rpartition("}")[2] not in done.stdout


def test_service_of_a_port(site: Site, add: Add, lookup: Run) -> None:
    add("imapd", "AUTHSERVICE1143=inside")
    site.account("u1", mailhost="servera.example", systempw=None, insidepw=HASH)
    answer = json.loads(lookup("u1", "--json", "--port", "1143").stdout)
    assert answer["imap"]["account"]["password"] == "{SHA}"
    assert json.loads(lookup("u1", "--json").stdout)["imap"]["account"]["password"] == "none"


def test_port_that_is_served(site: Site, lookup: Run) -> None:
    """A mailhost that is this host with another port than the served one is another server."""
    site.account("u1", mailhost="front.example:1143")
    assert values(lookup("u1"))["IMAP"].startswith("to front.example port 1143")
    assert "this host" in values(lookup("u1", "--port", "1143"))["IMAP"]


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_impossible_port(site: Site, lookup: Run, port: str) -> None:
    assert lookup("u1", "--port", port).returncode == 2


STRANGE_NAMES = ["", "u\x1b[31m1", "u\n1", "u\t1", "#u", "\udcff\udcfe", "-", "x" * 100_000, "ü\u202e"]


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_strange_name(site: Site, lookup: Run, name: str) -> None:
    site.accounts += ["\tuid=1|gid=1\n", "#u\tuid=1\n"]
    site.write_userdb()
    done = lookup("--", name)
    assert done.returncode == 1
    assert "\u202e" not in done.stdout + done.stderr


def test_hostile_fields(site: Site, lookup: Run) -> None:
    site.userdb.write_bytes(b"u1\tuid=1|gid=1|home=/\x1b[31m|mail=\xff\xfe|quota=\xc2\x9b|options=mailhost=a,x=\x07\n")
    done = lookup("u1")
    assert done.returncode in (0, 1)
    assert not [character for character in done.stdout if not character.isprintable() and character != "\n"]
    assert lookup("u1", "--json").stdout.isascii()


def test_hostile_mailhost(site: Site, lookup: Run) -> None:
    site.account("u1", mailhost="\x1b[31mhost")
    done = lookup("u1")
    assert done.returncode == 75
    assert "\\x1b" in done.stdout


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop"])
def test_strange_userdb(site: Site, lookup: Run, kind: str) -> None:
    site.userdb.unlink()
    if kind == "fifo":
        os.mkfifo(site.userdb, 0o600)
    elif kind == "directory":
        site.userdb.mkdir(0o755)
    else:
        site.userdb.symlink_to("userdb")
    done = lookup("u1", within=20)
    assert done.returncode in (1, 75)
    assert done.stderr.startswith("error: ")


def test_relative_directory() -> None:
    done = admin("lookup", "u1", env={"PROXYHELPER_CONFDIR": "etc"})
    assert done.returncode in (75, 78)
    assert "absolute" in done.stderr


def test_colours_on_a_terminal(site: Site, on_terminal: Callable[..., tuple[int, str]]) -> None:
    site.account("u1", mailhost="servera.example")
    assert "\x1b[1mIMAP" in on_terminal("lookup", "u1")[1]
    assert "\x1b[" not in on_terminal("lookup", "u1", env={"NO_COLOR": "1"})[1]


def test_source_that_checks_proofs_itself(site: Site, lookup: Run) -> None:
    """It need not show what it checks: no account of it is without a password here."""
    (site.directory / "authdaemonrc").write_text('authmodulelist="authuserdb authdaemon"\n')
    site.account("u1", "", mailhost="servera.example", systempw="")
    done = lookup("u1")
    assert done.returncode == 0
    assert values(done)["password"] == "none"
