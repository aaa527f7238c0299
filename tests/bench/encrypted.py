"""What clients behind TLS get, beside nginx's mail proxy and Dovecot's with the same certificate, version and cipher.

The other proxies start when this is measured, and once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

from .client import Client, TlsClient
from .peers import dovecot_proxy, nginx_proxy
from .report import Row
from .sessions import IDLE_SESSIONS, Transfer, alone, logged_in, one_process, resting
from .stage import HEAVY, OURS, READER, Stage
from .turns import Effort, in_turn, milliseconds

DOVECOT_PROXY = "127.0.0.4"
NGINX = "127.0.0.17"
NGINX_WITH_64K = "127.0.0.18"

PEERS = {NGINX: "nginx", NGINX_WITH_64K: "nginx, 64 KiB", DOVECOT_PROXY: "Dovecot"}
BOUNDS = {NGINX: (1.15, 0.85)}
"""Of speed and of CPU time, where there are any: against nginx as it comes, with its buffer of 4 KiB."""

A_TENTH_IS_ENOUGH = (DOVECOT_PROXY,)
"""It takes ten times as long as others."""


@cache
def proxies(stage: Stage) -> dict[str, int]:
    """Start the peers; for each address the process that does their work."""
    accounts = [READER, HEAVY]
    settings = {NGINX: "", NGINX_WITH_64K: "proxy_buffer 64k;"}
    nginx = stage.servers.enter_context(nginx_proxy(stage.room("nginx"), settings, stage.certificate, accounts))
    dovecot = dovecot_proxy(stage.room("dovecot-proxy"), DOVECOT_PROXY, stage.certificate, accounts)
    return {NGINX: nginx, NGINX_WITH_64K: nginx, DOVECOT_PROXY: stage.servers.enter_context(dovecot)}


def login(stage: Stage, effort: Effort) -> list[Row]:
    """From connecting to the login's OK, with the handshake and the greeting."""

    def session(address: str) -> Callable[[], float]:
        def measure() -> float:
            with TlsClient(address, stage.trust) as client:
                return client.greeted + client.ask(f"LOGIN {READER.name} {READER.password}")

        return measure

    peers = [NGINX, DOVECOT_PROXY]
    proxies(stage)
    ours, *theirs = in_turn(effort.logins, session(OURS), *map(session, peers))
    return [
        Row("login, TLS", milliseconds(ours), milliseconds(other), PEERS[peer], ours / other)
        for peer, other in zip(peers, theirs, strict=True)
    ]


def bulk(stage: Stage, effort: Effort) -> list[Row]:
    """A literal from a backend in clear: speed, and CPU time of the process that encrypts it."""

    def transfer(address: str) -> Transfer:
        client = clients.enter_context(logged_in(TlsClient(address, stage.trust), HEAVY))
        size = effort.bytes // 10 if address in A_TENTH_IS_ENOUGH else effort.bytes
        return Transfer(client, theirs.get(address) or one_process(stage.program), size)

    theirs = proxies(stage)
    alone(stage.program)
    with ExitStack() as clients:
        transfers = {address: transfer(address) for address in (OURS, *PEERS)}
        taken = in_turn(effort.transfers, *(each.speed for each in transfers.values()))
    speeds = dict(zip(transfers, taken, strict=True))
    cpu = {address: each.cpu_per_gigabyte() for address, each in transfers.items()}

    def rows(peer: str) -> Iterator[Row]:
        fast, cheap = BOUNDS.get(peer, (None, None))
        name = PEERS[peer]
        ours, theirs = speeds[OURS], speeds[peer]
        yield Row("bulk, TLS", f"{ours:.0f} MB/s", f"{theirs:.0f} MB/s", name, ours / theirs, fast, at_least=True)
        ours, theirs = cpu[OURS], cpu[peer]
        yield Row("CPU of bulk per GB, TLS", f"{ours:.2f} s", f"{theirs:.2f} s", name, ours / theirs, cheap)

    return [row for peer in PEERS for row in rows(peer)]


def memory(stage: Stage, effort: Effort) -> list[Row]:
    """Mean PSS of many sessions at rest, beside ours in clear."""
    encrypted = resting(stage.program, lambda: logged_in(TlsClient(OURS, stage.trust), READER))
    clear = resting(stage.program, lambda: logged_in(Client(OURS), READER))
    figure = f"PSS, {IDLE_SESSIONS} idle sessions, TLS"
    return [Row(figure, f"{encrypted:.2f} MB", f"{clear:.2f} MB", "ours in clear", encrypted / clear)]
