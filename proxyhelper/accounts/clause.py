"""SQL as authmysqlrc and authpgsqlrc hold it, with $(local_part), $(domain) and $(service) in it, made safe.

A statement is a list of strings: SQL, and among it each Value, which the driver's module writes as a literal. A string
literal of the clause that holds placeholders becomes one Value, a placeholder that stands alone another. No character
that a client typed is ever part of the SQL.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CODE, STRING, OTHER, PLACEHOLDER = range(4)
OPEN = "$("
SPECIAL = frozenset("'\"`#-/$eE")
MYSQL_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
PGSQL_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
PGSQL_NUMERIC = frozenset("01234567xuU")


class Value(str):
    """What the server must take for the value of a string, whatever is in it."""

    __slots__ = ()


class Dialect:
    """How a server reads SQL; `backslash` says whether a plain '…' has escapes with backslashes in it."""

    __slots__ = ("backslash", "is_mysql")

    def __init__(self, *, is_mysql: bool, backslash: bool) -> None:
        self.is_mysql = is_mysql
        self.backslash = backslash


def statement(clause: str, values: "Mapping[str, str]", dialect: Dialect) -> "list[str]":
    """The clause with its placeholders as Values. Raises ValueError for one that cannot be made safe."""
    parts = [""]
    at = 0
    beside: str | None = None  # a string that stands before, with nothing but blanks behind it
    while at < len(clause):
        kind, end = _token(clause, at, dialect)
        part = clause[at:end]
        if OPEN in part and kind != CODE:
            part = _bound(clause, at, end, kind, values, dialect)
        if (kind == STRING or isinstance(part, Value)) and beside is not None and Value in (type(part), type(beside)):
            raise ValueError("two strings side by side, one with a placeholder: write one string")
        if isinstance(part, Value):
            parts += part, ""
        else:
            parts[-1] += part
        if not part.isspace() or kind != CODE:
            beside = part if kind == STRING or isinstance(part, Value) else None
        at = end
    return parts


def _bound(clause: str, at: int, end: int, kind: int, values: "Mapping[str, str]", dialect: Dialect) -> Value:
    """The value of a token with placeholders in it. Raises ValueError."""
    token = clause[at:end]
    if kind == OTHER:
        raise ValueError(f"a placeholder in {_shown(token)}, which is no string: use it in '…' only")
    _check_surroundings(clause, at, end, kind)
    return Value(fill(_string(token, dialect) if kind == STRING else token, values))


def fill(text: str, values: "Mapping[str, str]") -> str:
    """The text with what the placeholders stand for, once. Raises ValueError for an unknown one."""
    first, *rest = text.split(OPEN)
    filled = first
    for piece in rest:
        name, closed, tail = piece.partition(")")
        if not closed or name not in values:
            raise ValueError(f"placeholder {_shown(OPEN + name + closed)}: it must be one of {_known(values)}")
        filled += values[name] + tail
    return filled


def _token(clause: str, at: int, dialect: Dialect) -> "tuple[int, int]":
    """What stands at `at`, and where it ends."""
    if clause.startswith(OPEN, at):
        return PLACEHOLDER, _after(clause, ")", at)
    return _mysql_token(clause, at, dialect) if dialect.is_mysql else _pgsql_token(clause, at, dialect)


def _mysql_token(clause: str, at: int, dialect: Dialect) -> "tuple[int, int]":
    """A string in either quotes, a name in backticks, a comment (MySQL manual, Language Structure), or plain SQL."""
    first, two = clause[at], clause[at : at + 2]
    if first in "'\"":
        return STRING, _after_quoted(clause, at, dialect.backslash)
    if first == "`":
        return OTHER, _after_quoted(clause, at, False)
    if first == "#" or (two == "--" and (clause[at + 2 : at + 3] or " ") <= " "):
        return OTHER, _after_line(clause, at)
    if two == "/*":
        return OTHER, _after(clause, "*/", at + 2)
    return CODE, _after_code(clause, at)


def _pgsql_token(clause: str, at: int, dialect: Dialect) -> "tuple[int, int]":
    """A string '…' or E'…', a name in quotes, a comment, $tag$…$tag$ (PostgreSQL manual, Lexical Structure)."""
    first, two = clause[at], clause[at : at + 2]
    if first == "'":
        return STRING, _after_quoted(clause, at, dialect.backslash)
    if two in ("e'", "E'") and not _in_word(clause, at):
        return STRING, _after_quoted(clause, at + 1, True)
    if first == '"':
        return OTHER, _after_quoted(clause, at, False)
    if two == "--":
        return OTHER, _after_line(clause, at)
    if two == "/*":
        return OTHER, _after_nested(clause, at)
    if first == "$" and not _in_word(clause, at):
        tag, closed, _ = clause[at + 1 :].partition("$")
        if closed and (not tag or tag.isidentifier()):
            return OTHER, _after(clause, f"${tag}$", at + len(tag) + 2)
    return CODE, _after_code(clause, at)


def _after_code(clause: str, at: int) -> int:
    at += 1
    while at < len(clause) and clause[at] not in SPECIAL:
        at += 1
    return at


def _after_quoted(clause: str, at: int, backslash: bool) -> int:
    """Behind the quote that closes the one at `at`. Two quotes are one in the string."""
    quote = clause[at]
    end = at + 1
    while end < len(clause):
        if clause[end] == "\\" and backslash:
            end += 2
        elif clause[end] != quote:
            end += 1
        elif clause[end + 1 : end + 2] == quote:
            end += 2
        else:
            return end + 1
    raise ValueError(f"no closing {quote} for {_shown(clause[at:])}")


def _after_line(clause: str, at: int) -> int:
    end = clause.find("\n", at)
    return len(clause) if end < 0 else end


def _after_nested(clause: str, at: int) -> int:
    depth, end = 1, at + 2
    while depth:
        closing = _after(clause, "*/", end)
        opening = clause.find("/*", end, closing)
        depth += 1 if opening >= 0 else -1
        end = opening + 2 if opening >= 0 else closing
    return end


def _after(clause: str, closing: str, at: int) -> int:
    end = clause.find(closing, at)
    if end < 0:
        raise ValueError(f"no closing {closing} for {_shown(clause[at:])}")
    return end + len(closing)


def _check_surroundings(clause: str, at: int, end: int, kind: int) -> None:
    """A placeholder that is glued to a name is part of it, and N'…', X'…', _utf8'…', U&'…' are no plain strings."""
    if _in_word(clause, at) or clause[at - 1 : at] in ("&", "'", '"', "`") or (at and clause[at - 1] in "@.:"):
        raise ValueError(f"{_shown(clause[at:end])} is glued to what stands before it: use '…' and a blank")
    if kind == PLACEHOLDER and clause[end : end + 1] and (_is_word(clause[end]) or clause[end] in "'\"`.@$"):
        raise ValueError(f"{_shown(clause[at:end])} is glued to what stands behind it: use '…' and a blank")


def _in_word(clause: str, at: int) -> bool:
    return at > 0 and _is_word(clause[at - 1])


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "_$" or character >= "\x80"


def _string(literal: str, dialect: Dialect) -> str:
    """The value of a literal."""
    has_prefix = literal[0] in "eE"
    quote = literal[has_prefix]
    inner = literal[has_prefix + 1 : -1]
    value, at = "", 0
    decode = _mysql_escape if dialect.is_mysql else _pgsql_escape
    while at < len(inner):
        character = inner[at]
        if character == "\\" and (dialect.backslash or has_prefix):
            value += decode(inner[at + 1])
        else:
            value += character
        at += 2 if character == quote or (character == "\\" and (dialect.backslash or has_prefix)) else 1
    return value


def _mysql_escape(character: str) -> str:
    return MYSQL_ESCAPES.get(character, character)


def _pgsql_escape(character: str) -> str:
    if character in PGSQL_NUMERIC:
        raise ValueError(f"\\{character} in a string with a placeholder: write the character itself")
    return PGSQL_ESCAPES.get(character, character)


def _shown(text: str) -> str:
    """The beginning of a token, for an error: the whole could hold a key."""
    return repr(text if len(text) <= 20 else text[:20] + "…")


def _known(values: "Mapping[str, str]") -> str:
    return ", ".join(f"$({name})" for name in values)
