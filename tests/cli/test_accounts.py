"""`proxyhelper accounts`: the userdb by mailhost."""

import json
import os
import pty
import socket
import subprocess
import sys

import pytest
from support import CHECKOUT, Site, admin, gdbm, wait_until

HERE = socket.gethostname()


@pytest.fixture
def run(site: Site):
    def run(*arguments, status=0):
        done = admin("-c", site.directory, "accounts", *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout
        return done.stdout + done.stderr

    return run


@pytest.fixture
def accounts(site: Site) -> Site:
    for name, mailhost in (
        ("a1", "servera.example"),
        ("a2", "ServerA.example."),
        ("a3", "servera.example"),
        ("b1", "serverb.example:1143"),
        ("f1", "front.example"),
        ("f2", "front.example:143"),
        ("f3", "front.example:1143"),
        ("g1", HERE),
        ("x1", "a/b"),
        ("n1", ""),
    ):
        site.account(name, mailhost=mailhost)
    site.accounts += ["# comment\n", "a1\toptions=mailhost=serverb.example\n", "broken\n", "u1\tuid=x\n"]
    site.write_userdb()
    return site


def test_by_mailhost(accounts: Site, run) -> None:
    lines = run().splitlines()
    assert lines[0] == f"10 accounts in {accounts.userdb}"
    assert lines[1] == "   3  servera.example"
    assert sorted(lines[2:8]) == sorted(
        [
            "   1  a/b (cannot be a host)",
            "   1  front.example (this host)",
            "   1  front.example:1143",
            "   1  front.example:143 (this host)",
            f"   1  {HERE.lower()} (this host)",
            "   1  serverb.example:1143",
        ]
    )
    assert lines[8:10] == ["   1  without a mailhost", "        n1"]
    assert lines[10:] == [
        f"warning  a1: {accounts.userdb} line 1 counts; ignored: {accounts.userdb} line 12",
        f"warning  {accounts.userdb} line 13: no tab after a name: this line is no record",
        f"warning  {accounts.userdb} line 14: userdb field uid='x' is not a number from 0 to 4294967294",
    ]


def test_names_only_with_list(accounts: Site, run) -> None:
    assert " a2" not in run()
    lines = run("--list").splitlines()
    assert lines[1:5] == ["   3  servera.example", "        a1", "        a2", "        a3"]


def test_json(accounts: Site, run) -> None:
    found = json.loads(run("--json"))
    assert found["accounts"] == 10
    assert found["mailhosts"][0] == {"mailhost": "servera.example", "is": "another host", "accounts": 3}
    assert {entry["mailhost"]: entry["is"] for entry in found["mailhosts"][1:]} == {
        "front.example": "this host",
        "front.example:143": "this host",
        "front.example:1143": "another host",
        HERE.lower(): "this host",
        "serverb.example:1143": "another host",
        "a/b": "cannot be a host",
    }
    assert found["without_mailhost"] == ["n1"]
    path = str(accounts.userdb)
    assert found["duplicates"] == [
        {"name": "a1", "counts": {"file": path, "line": 1}, "ignored": [{"file": path, "line": 12}]}
    ]
    assert [(entry["line"], entry["name"]) for entry in found["broken"]] == [(13, ""), (14, "u1")]
    assert json.loads(run("--json", "--list"))["mailhosts"][0]["names"] == ["a1", "a2", "a3"]


def test_default_options(accounts: Site, run) -> None:
    (accounts.directory / "authdaemonrc").write_text('DEFAULTOPTIONS="mailhost=default.example"\n')
    output = run()
    assert "default.example" in output
    assert "without a mailhost" not in output


def test_first_ten_only(site: Site, run) -> None:
    site.accounts = [f"u{number}\ta=b\n" for number in range(25)] * 2 + ["broken\n"] * 12
    site.write_userdb()
    output = run()
    assert output.count("and 15 more") == 2  # names without a mailhost, duplicates
    assert output.count("and 2 more") == 1  # lines that are no record
    assert "u9" in output
    assert "u10" not in output
    assert "u24" in run("--list")
    assert len(json.loads(run("--json"))["without_mailhost"]) == 25


def test_escape_sequences(site: Site, run) -> None:
    site.accounts = ["u\x1b[2J1\toptions=mailhost=a\x1b[2Jb\n", "u\x1b[2J1\ta=b\n", "u\x1b[2J2\tuid=\x1b[2J\n"]
    site.write_userdb()
    assert run("--list").lower().count("\\x1b[2j") == 4


def test_empty(site: Site, run) -> None:
    assert run() == f"0 accounts in {site.userdb}\n"
    site.account("u1", mailhost="servera.example")
    assert run().startswith("1 account in ")


def test_no_userdb(site: Site, run) -> None:
    site.userdb.unlink()
    assert f"cannot read {site.userdb}" in run(status=75)


def test_unusable_settings(site: Site, run) -> None:
    (site.directory / "authdaemonrc").write_text("nonsense\n")
    assert "line 1" in run(status=78)


def test_compiled_alone(site: Site, run) -> None:
    gnu = gdbm()
    site.userdb.unlink()
    for name in ("", "shadow"):
        with gnu.open(f"{site.userdb}{name}.dat", "n", 0o600) as database:
            database[b"u1"] = b"options=mailhost=servera.example"
    assert "  1  servera.example\n" in run()


def test_progress_on_a_terminal_only(site: Site, run) -> None:
    """100,000 accounts: stdout is as without one, and stderr has a bar."""
    site.accounts = [f"user{number}\toptions=mailhost=server{number % 3}.example\n" for number in range(100_000)]
    site.write_userdb()
    plain = run()
    assert plain.splitlines()[1:] == [f"   {33334 - (at > 0)}  server{at}.example" for at in range(3)]
    process, terminal = pty.fork()
    if process == 0:
        environment = {"LC_ALL": "C.UTF-8", "TERM": "xterm"}
        if "PROXYHELPER_BIN" not in os.environ:
            environment["PYTHONPATH"] = str(CHECKOUT)
        command = [sys.executable, "-m", "proxyhelper", "-c", str(site.directory), "accounts"]
        with open(site.directory / "output", "wb") as output:
            os._exit(subprocess.call(command, stdout=output, env=environment, cwd="/"))
    shown = []

    def has_ended() -> bool:
        try:
            shown.append(os.read(terminal, 65536))
        except OSError:
            return True
        return not shown[-1]

    wait_until(has_ended, "the terminal is still open")
    assert os.waitpid(process, 0)[1] == 0
    os.close(terminal)
    assert b"100%" in b"".join(shown)
    assert (site.directory / "output").read_text() == plain
