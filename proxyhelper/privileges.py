"""Being root as briefly as possible.

Root is needed to read account sources that are root's, and to become an account's user. `assume` steps down to
somebody else and can be taken back by `resume_root`, for a dialogue that goes on after a failed login; `settle` makes
it final, before anything is relayed or executed. Where this process is not root there is nothing to give up.
"""

from .accounts.account import MAX_ID
from .failures import Temporary
from .interpreter import posix


class Person:
    """Whom to become: numbers, and the groups beside the main one."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: "list[int]") -> None:
        if not (0 < uid <= MAX_ID and 0 < gid <= MAX_ID):
            raise ValueError("root, or not an id at all")
        self.uid = uid
        self.gid = gid
        self.groups = groups


DEFAULT_PROXY_USERS = ("courier", "nobody")


def proxy_person(name: "str | None") -> Person:
    """PROXY_USER; by default Courier's user where it exists, else nobody. Raises Temporary."""
    import pwd

    for candidate in (name,) if name else DEFAULT_PROXY_USERS:
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid == 0 or entry.pw_gid == 0:
            raise Temporary(f"PROXY_USER={candidate} is root or in its group: name an unprivileged user")
        return Person(entry.pw_uid, entry.pw_gid, [entry.pw_gid])
    raise Temporary(f"PROXY_USER={name} is not a user of this host" if name else "no user to relay as: set PROXY_USER")


def is_root() -> bool:
    return posix.geteuid() == 0


class Root:
    """What `assume` changes beside the user id."""

    __slots__ = ("gids", "groups")

    def __init__(self) -> None:
        self.gids = posix.getresgid()
        self.groups = posix.getgroups()


def assume(person: Person) -> Root:
    """Become `person` as far as files and signals go. Raises Temporary, then unchanged."""
    root = Root()
    try:
        posix.setgroups(person.groups)
        posix.setresgid(person.gid, person.gid, person.gid)
        posix.setresuid(person.uid, person.uid, 0)
    except OSError as error:
        resume_root(root)
        raise Temporary(f"cannot become uid {person.uid}, gid {person.gid}: {error.strerror}") from None
    return root


def resume_root(root: Root) -> None:
    """Take `assume` back."""
    posix.setresuid(0, 0, 0)
    posix.setresgid(*root.gids)
    posix.setgroups(root.groups)


def settle(person: Person) -> None:
    """Be `person` for good. Raises PermissionError where anything of root is left: this process must end then."""
    posix.setresuid(person.uid, person.uid, person.uid)
    if posix.getresuid() != (person.uid,) * 3 or posix.getresgid() != (person.gid,) * 3:
        raise PermissionError(f"could not become uid {person.uid}, gid {person.gid} for good")
