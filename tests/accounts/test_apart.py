"""What a process of its own answers, and what becomes of one that does not."""

import os
import time

import pytest

from proxyhelper.accounts import apart
from proxyhelper.accounts.account import Account
from proxyhelper.failures import Temporary, WrongCredentials

ACCOUNT = Account(
    "ü@example.com",
    b"$6$hash",
    cleartext=b"\xff",
    uid=1000,
    gid=1001,
    groups=[1001, 5],
    home="/home/\udcff",
    maildir="M",
    quota="1S",
    options={"mailhost": "servera", "disableimap": ""},
)


def answering(outcome):
    """A question with this outcome."""

    def question():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return question


def test_account_comes_whole():
    answer = apart.ask(answering(ACCOUNT))
    assert {name: getattr(answer, name) for name in Account.__slots__} == {
        name: getattr(ACCOUNT, name) for name in Account.__slots__
    }


def test_question_is_asked_in_another_process():
    asked = []
    apart.ask(lambda: asked.append(os.getpid()) or ACCOUNT)
    assert asked == []


@pytest.mark.parametrize("kind", [Temporary, WrongCredentials])
def test_failure_keeps_kind_and_words(kind):
    with pytest.raises(kind, match=r"^the words$"):
        apart.ask(answering(kind("the words")))


def test_error_is_temporary_and_says_nothing_of_its_text():
    with pytest.raises(Temporary, match="ZeroDivisionError") as failure:
        apart.ask(answering(ZeroDivisionError("secret")))
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("blow", [lambda: os.kill(os.getpid(), 9), lambda: os._exit(3)])
def test_process_that_dies(blow):
    with pytest.raises(Temporary, match="ended without an answer"):
        apart.ask(blow)


def test_answer_over_the_bound():
    huge = Account("u1", b"", home="x" * (2 * apart.MAX_ANSWER), options={})
    with pytest.raises(Temporary, match="over"):
        apart.ask(answering(huge))


def test_no_answer(monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.1)
    started = time.monotonic()
    with pytest.raises(Temporary, match="did not answer"):
        apart.ask(lambda: time.sleep(60))
    assert time.monotonic() - started < 30


@pytest.fixture(autouse=True)
def nothing_left():
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_memory_has_a_bound():
    with pytest.raises(Temporary, match="MemoryError"):
        apart.ask(lambda: bytes(2 * apart.MAX_MEMORY) and ACCOUNT)


def test_supervisor_that_ignores_the_end_of_children(site, greeted):
    """`waitpid` would fail, after the answer is there."""
    env = {"PROXY_AUTHMODULES": "authmysql", "LOGIN_FAIL_DELAY": "0"}
    session = greeted(env=env, wrapped=["env", "--ignore-signal=CHLD"])
    session.send(b"a LOGIN u1 secret\r\n")
    assert session.line().startswith(b"a NO [UNAVAILABLE]")
