"""`proxyhelper login`: the way of a login, step by step, with a backend whose words the test says."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from real.certificates import Authority
from scripted import GREETING, Backend, Login, closed_port, read_login
from support import CHECKOUT, DEADLINE, Site, admin, need, open_directory

PASSWORD = 'pass "wörd\\ of 1 kind'
ON_THE_WAY = ["account", "password", "options", "route"]
TO_A_BACKEND = [*ON_THE_WAY, "name", "connection", "greeting"]
OK = {"imap": b"OK LOGIN Ok.", "pop3": b"+OK logged in."}

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Add = Callable[..., int]


@dataclass(frozen=True)
class Walked:
    """What `login --json` says."""

    status: int
    steps: list[dict[str, object]]
    text: str

    @property
    def names(self) -> list[object]:
        return [step["step"] for step in self.steps]

    @property
    def last(self) -> str:
        return str(self.steps[-1]["outcome"])


@pytest.fixture(params=["imap", "pop3"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def login(run: Run, protocol: str, no_entries: Path) -> Callable[..., Walked]:
    """Walk the way of u1 with a password. Neither text nor JSON shows it."""

    def walk(
        password: str = PASSWORD, user: str = "u1", entries: Path = no_entries, tls: str = "", **options: object
    ) -> Walked:
        flags = [f"--{tls}"] if tls else []
        what = ["login", f"--{protocol}", "--entries", str(entries), "--json", *flags, "--", user]
        done = run(*what, text=password + "\n", **options)
        assert done.stdout, done.stderr
        assert not password.strip() or password not in done.stdout + done.stderr
        walked = json.loads(done.stdout)
        assert (walked["user"], walked["protocol"], walked["status"]) == (user, protocol, done.returncode)
        steps = walked["steps"]
        assert all(step["milliseconds"] >= 0 for step in steps)
        levels = [step["level"] for step in steps if step["step"] != "certificate"]
        assert levels == ["ok"] * (len(levels) - 1) + ["error" if done.returncode else "ok"]
        return Walked(done.returncode, steps, done.stdout)

    return walk


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Walked]]]:
    """Run something while the test plays the backend."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


Answer = Callable[[Callable[[Login], bytes]], Walked]


@pytest.fixture
def answered(
    site: Site,
    protocol: str,
    backend: Backend,
    login: Callable[..., Walked],
    in_background: Callable[..., Future[Walked]],
) -> Callable[[bytes], Walked]:
    """The way to a backend that answers the login with this."""

    def answer(verdict: bytes) -> Walked:
        site.account("u1", PASSWORD, mailhost=backend.mailhost)
        future = in_background(login)
        wire = backend.greet(GREETING[protocol])
        given = read_login(protocol, wire)
        assert (given.user, given.password) == (b"u1", PASSWORD.encode())
        wire.send(given.reply(verdict))
        return future.result(DEADLINE)

    return answer


def test_logged_in(answered: Callable[[bytes], Walked], protocol: str) -> None:
    walked = answered(OK[protocol])
    assert walked.status == 0
    assert [name for name in walked.names if name in [*TO_A_BACKEND, "reply"]] == [*TO_A_BACKEND, "reply"]
    assert walked.last == OK[protocol].decode()


def test_text(
    site: Site, run: Run, backend: Backend, no_entries: Path, in_background: Callable[..., Future[object]]
) -> None:
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    future = in_background(run, "login", "u1", "--entries", no_entries, text=PASSWORD + "\n")
    wire = backend.greet(GREETING["imap"])
    wire.send(read_login("imap", wire).reply(b"NO not \x1b[31mnow"))
    done = future.result(DEADLINE)
    assert isinstance(done, subprocess.CompletedProcess)
    lines = done.stdout.splitlines()
    steps = [line.split() for line in lines if " ms " in line]
    assert [words[3] for words in steps if words[3] in TO_A_BACKEND] == TO_A_BACKEND
    assert all(float(words[1]) >= 0 for words in steps)
    assert (steps[0][0], steps[-1][0]) == ("ok", "error")
    assert "\\x1b[31mnow" in done.stdout
    assert lines[-1].strip().startswith("→ is this the account's server?")
    assert PASSWORD not in done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (77, "")


def test_refused(answered: Callable[[bytes], Walked], protocol: str) -> None:
    walked = answered({"imap": b"NO [AUTHENTICATIONFAILED] go away", "pop3": b"-ERR [AUTH] go away"}[protocol])
    assert walked.status == 77
    assert "go away" in walked.last


def test_unavailable(answered: Callable[[bytes], Walked], protocol: str) -> None:
    walked = answered({"imap": b"NO [UNAVAILABLE] later", "pop3": b"-ERR [SYS/TEMP] later"}[protocol])
    assert walked.status in (75, 77)
    assert "later" in walked.last


@pytest.mark.parametrize("accepted", [True, False])
def test_password_repeated(answered: Callable[[bytes], Walked], protocol: str, accepted: bool) -> None:
    """The fixture looks for it in all that is shown."""
    refusal = {"imap": b"NO", "pop3": b"-ERR"}[protocol]
    walked = answered((OK[protocol] if accepted else refusal) + b" welcome " + PASSWORD.encode())
    assert walked.status == (0 if accepted else 77)
    assert "repeats the password" in walked.last


def test_wrong_password(site: Site, login: Callable[..., Walked], backend: Backend) -> None:
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    walked = login("another")
    assert (walked.status, walked.names, walked.last) == (1, ["account", "password"], "wrong password")
    assert backend.untouched()


def test_no_such_account(login: Callable[..., Walked]) -> None:
    walked = login()
    assert (walked.status, walked.names, walked.last) == (1, ["account"], "u1: no such account")


@pytest.mark.parametrize("password", ["", "tab\there", "\x1b"])
def test_impossible_password(site: Site, login: Callable[..., Walked], password: str) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port())
    assert login(password).status == 1


@pytest.mark.parametrize("user", ["", "\x1b[31m", "u1\n", "\udcff"])
def test_impossible_name(login: Callable[..., Walked], user: str) -> None:
    assert login(user=user).status == 1


def test_account_without_password(site: Site, login: Callable[..., Walked]) -> None:
    site.account("u1", systempw=None)
    walked = login()
    assert (walked.status, walked.names) == (1, ["account", "password"])
    assert "wrong password" in walked.last


def test_password_as_bytes(site: Site, protocol: str, login: Callable[..., Walked]) -> None:
    """Not UTF-8, and up to the end of the first line."""
    site.account("u1", "x", systempw="{SHA}n8XIz4C1ZJDcxDDzUSYRKFp3jG8=", mailhost=closed_port())
    assert login("p\udce4ss", user="u1").names[:2] == ["account", "password"]


def test_source_at_fault(site: Site, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD)
    site.userdb.chmod(0o644)
    walked = login()
    assert (walked.status, walked.names) == (75, ["account"])
    assert "0644" in walked.last


def test_disabled(site: Site, protocol: str, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port(), options=f"disable{protocol}=1")
    walked = login()
    assert (walked.status, walked.names) == (77, ["account", "password", "options"])
    assert f"disable{protocol}" in walked.last


def test_only_over_tls(site: Site, protocol: str, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port(), options=f"disableinsecure{protocol}=1")
    assert login().status == 77


def test_impossible_mailhost(site: Site, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD, mailhost="host:0")
    walked = login()
    assert (walked.status, walked.names) == (75, ON_THE_WAY)


def test_name_that_does_not_resolve(site: Site, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD, mailhost="no-such-host.invalid")
    walked = login()
    assert (walked.status, walked.names) == (75, [*ON_THE_WAY, "name"])
    assert "cannot resolve" in walked.last


def test_backend_down(site: Site, login: Callable[..., Walked]) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port())
    walked = login()
    assert (walked.status, walked.names) == (75, [*ON_THE_WAY, "name", "connection"])
    assert "Connection refused" in walked.last


def test_silent_backend(site: Site, login: Callable[..., Walked]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site.account("u1", PASSWORD, mailhost="{}:{}".format(*listener.getsockname()))
        walked = login(env={"PROXY_TIMEOUT": "1"})
    assert (walked.status, walked.names) == (75, TO_A_BACKEND)
    assert "timed out" in walked.last
    assert float(str(walked.steps[-1]["milliseconds"])) >= 900


def test_wrong_greeting(
    site: Site, backend: Backend, login: Callable[..., Walked], in_background: Callable[..., Future[Walked]]
) -> None:
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    future = in_background(login)
    backend.greet(b"220 smtp \x1b[31m\r\n")
    walked = future.result(DEADLINE)
    assert (walked.status, walked.names) == (75, TO_A_BACKEND)
    assert "220 smtp" in walked.last


def test_default_domain(site: Site, add: Add, login: Callable[..., Walked]) -> None:
    add("authdaemonrc", "DEFDOMAIN=@example.com")
    site.account("u1@example.com", PASSWORD, mailhost=closed_port())
    assert login().steps[0]["outcome"] == "u1@example.com found"


def test_settings_that_cannot_be_used(site: Site, add: Add, run: Run) -> None:
    number = add("imapd", "no assignment")
    done = run("login", "u1", text=PASSWORD + "\n")
    assert (done.returncode, done.stdout) == (78, "")
    assert f"imapd line {number}" in done.stderr


def test_neither_is_imap(site: Site, add: Add, run: Run, no_entries: Path) -> None:
    add("pop3d", "no assignment")
    site.account("u1", PASSWORD, mailhost="no-such-host.invalid")
    done = run("login", "u1", "--entries", no_entries, "--json", text=PASSWORD + "\n")
    assert json.loads(done.stdout)["protocol"] == "imap"


def test_relative_directory() -> None:
    done = admin("login", "u1", text=PASSWORD, env={"PROXYHELPER_CONFDIR": "etc"})
    assert done.returncode == 78
    assert "absolute" in done.stderr


def places_of(secret: bytes) -> list[str]:
    """The processes that anybody can see it in."""
    found = []
    for file in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
        try:
            if secret in file.read_bytes():
                found.append(str(file))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def test_password_is_in_no_process_list(
    site: Site, backend: Backend, login: Callable[..., Walked], in_background: Callable[..., Future[Walked]]
) -> None:
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    future = in_background(login)
    wire = backend.accept()
    assert places_of(b"--json") != [], "the command is seen"
    assert places_of(PASSWORD.encode()) == []
    wire.send(b"bye\r\n")
    assert future.result(DEADLINE).status == 75


def test_prompt(site: Site, on_terminal: Callable[..., tuple[int, str]], no_entries: Path) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port())
    what = ["login", "u1", "--entries", no_entries]
    status, shown = on_terminal(*what, prompt="Password: ", answer=PASSWORD)
    assert status == 75
    assert "Connection refused" in shown
    assert PASSWORD not in shown
    assert "wörd" not in shown
    status, shown = on_terminal(*what, prompt="Password: ", answer="another")
    assert (status, "another" in shown) == (1, False)


def test_no_input(run: Run) -> None:
    done = run("login", "u1", text="")
    assert done.returncode == 1


def test_proxies_in_a_round(
    site: Site,
    run: Run,
    protocol: str,
    backend: Backend,
    no_entries: Path,
    in_background: Callable[..., Future[subprocess.CompletedProcess[str]]],
) -> None:
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    future = in_background(run, "login", "u1", f"--{protocol}", "--entries", no_entries, text=PASSWORD + "\n")
    wire = backend.greet(GREETING[protocol])
    said = b"Mail service is misconfigured: this account's server could not be determined."
    wire.send(
        read_login(protocol, wire).reply({"imap": b"NO [SERVERBUG] ", "pop3": b"-ERR [SYS/PERM] "}[protocol] + said)
    )
    done = future.result(DEADLINE)
    assert done.returncode == 77
    assert done.stdout.splitlines()[-1].strip().startswith("→ that server is a proxy, too: proxyhelper lookup")


# TLS towards the backend

DAYS = timedelta(days=1)


@pytest.fixture
def towards(
    site: Site, add: Add, run: Run, greeting_with: Callable[..., AbstractContextManager[str]], no_entries: Path
) -> Callable[..., list[str]]:
    """The lines of a login at a backend with this certificate, which fails there."""

    def walk(certificate: Path, tls: str = "yes", serves: str = "", cafile: Path | None = None) -> list[str]:
        if cafile:
            add("authdaemonrc", f"PROXY_CAFILE={cafile}")
        with greeting_with(GREETING["imap"], tls=serves or tls, certificate=certificate) as place:
            site.account("u1", PASSWORD, options=f"mailhost={place},mailhosttls={tls}")
            done = run("login", "u1", "--entries", no_entries, text=PASSWORD + "\n")
        assert done.returncode == 75
        return done.stdout.splitlines()

    return walk


@pytest.mark.parametrize("tls", ["starttls", "yes"])
@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("self-signed", "name that certificate in PROXY_CAFILE"),
        ("unknown", "name the authority in PROXY_CAFILE"),
        ("expired", "the server's certificate: renew it"),
        ("early", "are the clocks"),
        ("other name", "the mailhost must be a name that the server's certificate has"),
    ],
)
def test_backend_certificate(
    authority: Authority, towards: Callable[..., list[str]], tmp_path: Path, tls: str, case: str, remedy: str
) -> None:
    name = "IP:127.0.0.1"
    certificate = {
        "self-signed": lambda: authority.self_signed("own", name),
        "unknown": lambda: authority.issue("far", name),
        "expired": lambda: authority.issue("old", name, start=-2 * DAYS, end=-DAYS),
        "early": lambda: authority.issue("new", name, start=DAYS),
        "other name": lambda: authority.issue("other", "DNS:other.example"),
    }[case]()
    trusted = authority.self_signed("stranger", name).certificate if case == "unknown" else authority.ca
    lines = towards(certificate.both, tls, cafile=trusted)
    assert lines[-2].split()[:4:3] == ["error", "TLS"]
    assert lines[-1].strip().startswith(f"→ {remedy}")


def test_backend_port_in_clear(authority: Authority, towards: Callable[..., list[str]]) -> None:
    lines = towards(authority.issue("front").both, "yes", serves="no", cafile=authority.ca)
    assert lines[-2].split()[:4:3] == ["error", "TLS"]
    assert "that port does not begin with TLS" in lines[-1]


@pytest.mark.parametrize("contents", [None, "no certificate"])
def test_cafile_that_cannot_be_used(
    authority: Authority, towards: Callable[..., list[str]], tmp_path: Path, contents: str | None
) -> None:
    cafile = tmp_path / "ca.pem"
    if contents:
        cafile.write_text(contents)
    lines = towards(authority.issue("front", "IP:127.0.0.1").both, cafile=cafile)
    assert lines[-2].split()[:4:3] == ["error", "TLS"]
    assert "PEM form" in lines[-1]


def test_cafile_is_read_as_the_entrys_user(
    site: Site, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], authority: Authority, add: Add
) -> None:
    need(os.geteuid() == 0, "root, to become the entry's user")
    with open_directory() as directory:
        cafile = directory / "ca.pem"
        shutil.copy(authority.ca, cafile)
        cafile.chmod(0o600)
        add("authdaemonrc", f"PROXY_CAFILE={cafile}")
        site.account("u1", PASSWORD, options=f"mailhost={closed_port()},mailhosttls=yes")
        served = entry(protocol, user="nobody")
        walked = login(entries=served)
        assert (walked.status, walked.names[-1], "PROXY_CAFILE" in walked.last) == (75, "TLS", True)
        cafile.chmod(0o644)
        assert login(entries=served).names[-1] == "connection"


def test_user_that_is_not_there(
    site: Site, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    site.account("u1", PASSWORD, mailhost=closed_port())
    walked = login(entries=entry(protocol, user="no-such-user"))
    assert (walked.status, walked.names[-1]) == (75, "entry")
    assert "no-such-user" in walked.last


# A mailbox on this host


@pytest.fixture
def here(site: Site, tmp_path: Path) -> Iterator[Path]:
    """u1's mailbox is here; the local server's file."""
    need(os.geteuid() == 0, "root, to become the account's user")
    with open_directory() as directory:
        site.account("u1", PASSWORD, mailhost="front.example", home=str(directory))
        yield directory / "server"


def write_server(file: Path, *lines: str) -> None:
    file.write_text("#!/bin/sh\n" + "".join(f"{line}\n" for line in lines))
    file.chmod(0o755)


SAYS_OK = {"imap": "printf '%s OK in\\r\\n' \"$IMAPLOGINTAG\"", "pop3": "printf '+OK in\\r\\n'"}


def test_local_server(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], site: Site
) -> None:
    notes = here.parent / "notes"
    notes.mkdir()
    os.chown(notes, 1000, 1000)
    write_server(here, f"id -u >{notes}/uid", f"env >{notes}/env", f'echo "$*" >{notes}/args', SAYS_OK[protocol])
    walked = login(entries=entry(protocol, str(here), "Maildir"))
    assert (walked.status, walked.names) == (0, [*ON_THE_WAY, "local server"])
    assert walked.last.startswith(f"{here} Maildir: ")
    assert (notes / "uid").read_text() == "1000\n"
    assert (notes / "args").read_text() == "/nonexistent/Maildir\n"
    assert PASSWORD not in (notes / "env").read_text()
    assert "AUTHENTICATED=u1" in (notes / "env").read_text()


def test_no_entry(here: Path, protocol: str, login: Callable[..., Walked]) -> None:
    walked = login()
    assert (walked.status, walked.names[-1]) == (75, "local server")
    assert f"proxyhelper-{protocol}" in walked.last


def test_entry_without_local_server(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    walked = login(entries=entry(protocol))
    assert walked.status == 75
    assert "no local server" in walked.last


@pytest.mark.parametrize("program", ["/nonexistent/python /nonexistent/proxyhelper-{}", "/dev/null/proxyhelper-{}"])
def test_program_that_does_not_start(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], program: str
) -> None:
    walked = login(entries=entry(protocol, program=program.format(protocol).split()))
    assert (walked.status, walked.names[-1]) == (75, "local server")
    assert "does not start" in walked.last


def test_missing_local_server(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    walked = login(entries=entry(protocol, str(here), "Maildir"))
    assert walked.status == 75
    assert f"local server {here}" in walked.last


def test_local_server_ends_at_once(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    write_server(here, "echo 'ERR: no \033[31mmailbox' >&2", "exit 1")
    walked = login(entries=entry(protocol, str(here), "Maildir"))
    assert walked.status == 75
    assert "mailbox" in walked.last


def test_noisy_local_server(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    write_server(here, "head -c 300000 /dev/zero | tr '\\0' x >&2", "echo >&2", SAYS_OK[protocol])
    assert login(entries=entry(protocol, str(here), "Maildir"), within=20).status == 0


def test_local_server_that_stays(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    """It has a deadline, and so has what it leaves behind."""
    write_server(here, "sleep 4217 & ", SAYS_OK[protocol], "exec sleep 4218")
    started = time.monotonic()
    assert login(entries=entry(protocol, str(here), "Maildir"), within=30).status == 0
    assert time.monotonic() - started < 20
    assert [place for place in places_of(b"sleep\x00421") if place.endswith("cmdline")] == []


def test_hostile_local_server(here: Path, protocol: str, run: Run, entry: Callable[..., Path], site: Site) -> None:
    write_server(here, SAYS_OK[protocol].replace(" in", " \\033[2Jin"))
    what = ["login", "u1", f"--{protocol}", "--entries", entry(protocol, str(here), "Maildir")]
    done = run(*what, text=PASSWORD + "\n")
    assert (done.returncode, "\\x1b[2J" in done.stdout) == (0, True)


# TLS


@pytest.fixture
def certified(site: Site, add: Add, authority: Authority) -> str:
    """STARTTLS is offered to clients of both protocols; what is said of the certificate."""
    certificate = authority.issue("front", "DNS:mail.example.com", "DNS:pop.example.com")
    for name, setting in (("imapd", "IMAPDSTARTTLS"), ("pop3d", "POP3_STARTTLS")):
        add(name, f"{setting}=YES", f"TLS_CERTFILE={certificate.both}")
    return "for mail.example.com, pop.example.com, valid from "


TLS_ENTRY = {"starttls": "", "tls": "PROXY_TLS_WRAP=1"}
BEHIND_TLS = [*ON_THE_WAY, "TLS", "certificate"]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_local_server_behind_tls(
    here: Path, certified: str, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], tls: str
) -> None:
    write_server(here, SAYS_OK[protocol])
    walked = login(entries=entry(protocol, str(here), "Maildir", env=TLS_ENTRY[tls]), tls=tls)
    assert (walked.status, walked.names) == (0, [*BEHIND_TLS, "local server"])
    assert str(walked.steps[-3]["outcome"]).startswith("TLSv1.3, TLS_")
    assert str(walked.steps[-2]["outcome"]).startswith(certified)
    assert walked.last.startswith(f"{here} Maildir: ")


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize("accepted", [True, False])
def test_backend_through_the_helper(
    site: Site,
    certified: str,
    protocol: str,
    backend: Backend,
    login: Callable[..., Walked],
    entry: Callable[..., Path],
    in_background: Callable[..., Future[Walked]],
    tls: str,
    accepted: bool,
) -> None:
    need(os.geteuid() == 0, "root, to become PROXY_USER")
    site.account("u1", PASSWORD, mailhost=backend.mailhost)
    future = in_background(login, entries=entry(protocol, env=TLS_ENTRY[tls]), tls=tls)
    wire = backend.greet(GREETING[protocol])
    given = read_login(protocol, wire)
    assert (given.user, given.password) == (b"u1", PASSWORD.encode())
    verdict = OK[protocol] if accepted else {"imap": b"NO full", "pop3": b"-ERR full"}[protocol]
    wire.send(given.reply(verdict))
    walked = future.result(DEADLINE)
    assert (walked.status, walked.names) == (0 if accepted else 77, [*BEHIND_TLS, "helper"])
    assert walked.last.startswith(verdict.decode())


def test_entry_with_tls_alone(
    here: Path, certified: str, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    """Nothing needs to be asked for where there is no other way in."""
    write_server(here, SAYS_OK[protocol])
    walked = login(entries=entry(protocol, str(here), "Maildir", env=TLS_ENTRY["tls"]))
    assert (walked.status, walked.names) == (0, [*BEHIND_TLS, "local server"])


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_the_entry_for_the_way_counts(
    here: Path, certified: str, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], tls: str
) -> None:
    other = {"starttls": "tls", "tls": "starttls"}[tls]
    entry(protocol, "/nonexistent/server", "Maildir", env=TLS_ENTRY[other])
    write_server(here, SAYS_OK[protocol])
    directory = entry(protocol, str(here), "Maildir", env=TLS_ENTRY[tls]).parent
    both = directory / "xinetd.d"
    both.mkdir()
    for file in directory.glob("xinetd.*[3ps]"):
        file.rename(both / file.name.replace(".", "-"))
    assert login(entries=both, tls=tls).status == 0
    assert "/nonexistent/server" in login(entries=both, tls=other).last


def test_no_entry_for_the_way(
    here: Path, certified: str, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    walked = login(entries=entry(protocol, str(here), "Maildir"), tls="tls")
    assert (walked.status, walked.names) == (75, [*ON_THE_WAY, "local server"])
    assert "with TLS from the first byte" in walked.last


@pytest.mark.parametrize(("tls", "why"), [("starttls", "does not offer STARTTLS"), ("tls", "certificate")])
def test_no_certificate(
    here: Path, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path], tls: str, why: str
) -> None:
    walked = login(entries=entry(protocol, str(here), "Maildir", env=TLS_ENTRY[tls]), tls=tls)
    assert (walked.status, walked.names) == (75, [*ON_THE_WAY, "TLS"])
    assert why in walked.last


def test_only_behind_tls(
    here: Path,
    certified: str,
    site: Site,
    add: Add,
    protocol: str,
    login: Callable[..., Walked],
    entry: Callable[..., Path],
) -> None:
    write_server(here, SAYS_OK[protocol])
    add(f"{protocol}d", f"{protocol.upper()}_TLS_REQUIRED=1")
    served = entry(protocol, str(here), "Maildir")
    walked = login(entries=served)
    assert walked.status == 77
    assert "TLS_REQUIRED" in walked.last
    assert login(entries=served, tls="starttls").status == 0


def test_insecure_account(
    here: Path, certified: str, site: Site, protocol: str, login: Callable[..., Walked], entry: Callable[..., Path]
) -> None:
    write_server(here, SAYS_OK[protocol])
    options = f"disableinsecure{protocol}=1"
    site.account("u2", PASSWORD, mailhost="front.example", home=str(here.parent), options=options)
    served = entry(protocol, str(here), "Maildir")
    assert login(user="u2", entries=served).status == 77
    assert login(user="u2", entries=served, tls="starttls").status == 0


@pytest.mark.parametrize(
    ("start", "end", "outcome"),
    [(-2 * DAYS, -DAYS, "expired on "), (DAYS, 2 * DAYS, "not valid before ")],
)
def test_dates_of_the_certificate(
    here: Path,
    site: Site,
    add: Add,
    authority: Authority,
    protocol: str,
    login: Callable[..., Walked],
    entry: Callable[..., Path],
    start: timedelta,
    end: timedelta,
    outcome: str,
) -> None:
    """The login goes on: it is only real clients that go away."""
    write_server(here, SAYS_OK[protocol])
    certificate = authority.issue("dated", "DNS:mail.example.com", start=start, end=end)
    add("authdaemonrc", f"TLS_CERTFILE={certificate.both}")
    walked = login(entries=entry(protocol, str(here), "Maildir", env=TLS_ENTRY["tls"]), tls="tls")
    assert (walked.status, walked.names) == (0, [*BEHIND_TLS, "local server"])
    step = walked.steps[-2]
    assert (step["level"], str(step["outcome"]).startswith(outcome)) == ("error", True)


@pytest.mark.parametrize("closed", ["", "key", "settings"])
def test_helper_runs_as_the_entrys_user(
    site: Site,
    add: Add,
    authority: Authority,
    protocol: str,
    login: Callable[..., Walked],
    entry: Callable[..., Path],
    closed: str,
) -> None:
    """Not as root, who can read what that user cannot."""
    need(os.geteuid() == 0, "root, to become the entry's user")
    certificate = authority.issue("front", "DNS:mail.example.com")
    with open_directory() as directory:
        key, settings = directory / "key.pem", directory / "etc"
        shutil.copy(certificate.certificate, directory / "cert.pem")
        shutil.copy(certificate.key, key)
        key.chmod(0o600)
        shutil.chown(key, "root" if closed == "key" else "nobody")
        add("authdaemonrc", f"TLS_CERTFILE={directory}/cert.pem", f"TLS_PRIVATE_KEYFILE={key}")
        site.account("u1", PASSWORD, mailhost=closed_port())
        shutil.copytree(site.directory, settings)
        settings.chmod(0o700 if closed == "settings" else 0o755)
        for file in settings.iterdir():
            file.chmod(0o600 if file.name == "userdb" else 0o644)
            shutil.chown(file, "nobody")
        env = f"PROXY_TLS_WRAP=1 PROXYHELPER_CONFDIR={settings}"
        walked = login(entries=entry(protocol, user="nobody", env=env), tls="tls")
    assert walked.status == 75
    assert walked.names[-1] == ("TLS" if closed else "helper")
    assert ("Permission denied" if closed else "Connection refused") in walked.last


def test_without_root(site: Site, protocol: str, entry: Callable[..., Path]) -> None:
    """It says that it is not the entry's user who starts the helper."""
    need(os.geteuid() == 0, "root, to be somebody else")
    with open_directory() as directory:
        site.account("u1", PASSWORD, mailhost=closed_port())
        settings = directory / "etc"
        shutil.copytree(site.directory, settings)
        for file in settings.iterdir():
            shutil.chown(file, "nobody")
        settings.chmod(0o755)
        served = directory / "xinetd.entry"
        shutil.copy(entry(protocol, user="root"), served)
        served.chmod(0o644)
        done = subprocess.run(
            [sys.executable, "-m", "proxyhelper", "-c", settings, "login", f"--{protocol}", "--entries", served, "u1"],
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(CHECKOUT)},
            user="nobody",
            group="nogroup",
            extra_groups=[],
            timeout=DEADLINE,
        )
    assert done.returncode == 75, done.stderr
    assert "   note  " in done.stdout
    assert "only root can do this as the entry's user root" in done.stdout
