"""Read typed values from a tree: each function takes one `Value`, and reports a problem if it returns None.

This module does not know the keys; see `keys`.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import textwrap
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from ci_runner.pipelines.definition import Named
from ci_runner.pipelines.source.tree import Items, Node, Place, Problems, Scalar, Table, below, kind_of
from pytest_remote_ci.wire import formats, globs, job_variables, limits, protocol

_T = TypeVar("_T")

_LONGEST: Final = 32_768
_PYTHON: Final = re.compile(r"3\.\d{1,2}\Z")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACEHOLDER: Final = re.compile(r"\{[^}]+\}")
#: Words that open, divide or close a compound command of the shell.
_COMPOUND: Final = frozenset(
    {"if", "then", "elif", "else", "fi", "for", "while", "until", "do", "done", "case", "esac", "select"}
    | {"{", "}", "(", ")", ";;", "|", "&&", "||", "\\"}
)
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
#: A loose pattern for references to images; others cause a warning, never an error.
_IMAGE: Final = re.compile(r"[a-z0-9]+([._:/@-]+[A-Za-z0-9]+)*\Z")
#: Where the project is in the container, in files of other systems.
_APP: Final = "/app"
#: Variables that hold the developer's key to the runner.
_KEYS_OF_RUNNERS: Final = ("REMOTE_CI_API_KEY", "CI_API_KEY")
DAY: Final = 86_400.0


@dataclass(frozen=True)
class Value:
    """A node with its position and owner."""

    node: Node
    path: str
    problems: Problems
    #: The position of its key.
    key: Place
    #: In words for messages: ``job 'tests'``.
    owner: str = ""
    #: The last key on its path.
    label: str = ""

    def error(self, message: str) -> None:
        """Report an error in the value."""
        self.problems.error(self.node.place, self.path, message)

    def warn(self, message: str) -> None:
        """Report a probable mistake in the value."""
        self.problems.warn(self.node.place, self.path, message)

    def must(self, be: str) -> None:
        """Report what the value must be."""
        self.error(f"{self.subject} must be {be}, not {self.shown}")

    @property
    def subject(self) -> str:
        """The value's name for messages: ``'script' of job 'tests'``."""
        return f"'{self.label}' of {self.owner}" if self.owner else f"'{self.label}'"

    @property
    def shown(self) -> str:
        """The value for messages."""
        if isinstance(self.node, Scalar) and self.node.value is not None:
            text = self.node.text if len(self.node.text) <= 60 else f"{self.node.text[:60]}…"
            return repr(text) if isinstance(self.node.value, str) else text
        return kind_of(self.node)

    def items(self) -> Iterator[Value]:
        """Yield the items of a list; nothing for other nodes."""
        if isinstance(self.node, Items):
            for index, item in enumerate(self.node.items):
                yield Value(item, below(self.path, index), self.problems, item.place, self.owner, self.label)

    def entries(self) -> Iterator[tuple[str, Value]]:
        """Yield the entries of a table; nothing for other nodes."""
        if isinstance(self.node, Table):
            for key, entry in self.node.entries.items():
                path = below(below(self.path, entry.within) if entry.within else self.path, key)
                yield key, Value(entry.node, path, self.problems, entry.key, self.owner, key)

    def of(self, owner: str) -> Value:
        """Return the same value with another owner."""
        return Value(self.node, self.path, self.problems, self.key, owner, self.label)


def canonical(key: str) -> str:
    """Return ``allow-failure`` for ``allowFailure`` and ``allow_failure``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"-\1", key).replace("_", "-").lower()


def nearest(word: str, known: Collection[str]) -> str:
    """Return ``; did you mean 'needs'?``, else the list of known words if it is short, else ""."""
    close = difflib.get_close_matches(word[:100], known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= 40 else ""


def text(value: Value) -> str | None:
    """Read text that is not blank."""
    node = value.node
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        value.must(
            "text" + (' (in quotes: "…")' if isinstance(node, Scalar) and node.value is not None else "")
        )
        return None
    return _bounded(value, node.value.strip())


def _bounded(value: Value, content: str) -> str | None:
    if not content:
        value.error(f"{value.subject} cannot be empty")
    elif "\0" in content or len(content) > _LONGEST:
        value.must(f"at most {_LONGEST} characters and no NUL among them")
    else:
        return content
    return None


def name(value: Value) -> str | None:
    """Read a name: one line of printable text."""
    content = text(value)
    if content is not None and (not content.isprintable() or len(content) > 200):
        value.must("at most 200 printable characters")
        return None
    return content


def word(value: Value) -> str | None:
    """Read a scalar as written, of any type: 3.10 stays 3.10."""
    if not isinstance(value.node, Scalar) or value.node.value is None:
        value.must("text")
        return None
    content = value.node.text
    if "\0" in content or len(content) > _LONGEST:
        value.must(f"at most {_LONGEST} characters and no NUL among them")
        return None
    return content


def flag(value: Value) -> bool | None:
    """Read true or false; also as text in any case, and YAML 1.1's words."""
    node = value.node
    if isinstance(node, Scalar) and isinstance(node.value, (bool, str)) and node.text.lower() in _FLAGS:
        return _FLAGS[node.text.lower()]
    value.must("true or false")
    return None


def list_of(value: Value, read: Callable[[Value], _T | None], what: str) -> tuple[_T, ...] | None:
    """Read a list; all of its wrong items are reported."""
    if not isinstance(value.node, Items):
        value.must(f"a list of {what}")
        return None
    found = [read(item) for item in value.items()]
    return tuple(item for item in found if item is not None)


def one_or_many(value: Value, read: Callable[[Value], _T | None], what: str) -> tuple[_T, ...] | None:
    """Read a single item, or a list."""
    if isinstance(value.node, Scalar) and isinstance(value.node.value, str):
        single = read(value)
        return None if single is None else (single,)
    if isinstance(value.node, Items):
        return list_of(value, read, what)
    value.must(f"text or a list of {what}")
    return None


def texts(value: Value) -> tuple[str, ...] | None:
    """Read a list of arguments of any scalar type; numbers as written."""
    return list_of(value, word, "strings")


def script(value: Value) -> tuple[str, ...] | None:
    """Read commands: a list, or text with one command per line."""
    node = value.node
    if isinstance(node, Scalar) and isinstance(node.value, str):
        if "\0" in node.value or len(node.value) > _LONGEST:
            value.must(f"at most {_LONGEST} characters and no NUL among them")
            return None
        found = commands(node.value)
        if not found:
            value.error(f"{value.subject} cannot be empty")
        return found or None
    if not isinstance(node, Items):
        value.must("a string or list of strings")
        return None
    if not node.items:
        value.warn(f"{value.subject} is empty: the job does nothing (remove the key to run pytest)")
        return ('echo "Empty script"',)
    return list_of(value, _command, "strings")


def commands(block: str) -> tuple[str, ...]:
    """Return each line of a block, or the whole block as one command if lines seem to belong together."""
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    if len(lines) > 1 and any(map(_goes_on, lines)):
        return (textwrap.dedent(block).strip("\n"),)
    return tuple(lines)


def _goes_on(line: str) -> bool:
    """Return whether a line of shell is probably incomplete: part of a loop, a here-document, an open quote."""
    words = line.split()
    if words[0] in _COMPOUND or words[-1] in _COMPOUND or words[-1].endswith(("\\", "|", "&&", "{", "(")):
        return True
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return "<<" in line


def _command(value: Value) -> str | None:
    if isinstance(value.node, Scalar) and isinstance(value.node.value, str):
        return _bounded(value, value.node.value.strip("\n"))
    value.must(
        "a string (a command with ': ' in it needs quotes)" if isinstance(value.node, Table) else "a string"
    )
    return None


def image(value: Value) -> str | None:
    """Read the name of an image; an unusual one only causes a warning."""
    content = text(value)
    if content is not None and (not content.isprintable() or len(content) > 500):
        value.must("at most 500 printable characters")
        return None
    if content is not None and not _IMAGE.match(re.sub(r"\$?\{[^}]*\}", "x", content)):
        value.warn(f"image name {content!r} has unusual characters")
    return content


def python(value: Value) -> str | None:
    """Read a version such as 3.12, in quotes or not."""
    node = value.node
    if isinstance(node, Scalar) and (_PYTHON.match(node.text) or _PLACEHOLDER.search(node.text)):
        return node.text
    value.must('a Python version such as "3.12"')
    return None


def job_variables_of(value: Value) -> dict[str, str] | None:
    """Read environment variables of a job; some names are reserved."""
    return variables(value, job_variables.refusal)


def variables(
    value: Value, refusal: Callable[[str], str | None] = lambda _name: None
) -> dict[str, str] | None:
    """Read environment variables; `refusal` returns why a name is not allowed, or None."""
    if not isinstance(value.node, Table):
        more = (
            " (to pass variables of your environment, use 'secrets')" if isinstance(value.node, Items) else ""
        )
        value.must(f"a table of variables and their values{more}")
        return None
    found = {}
    for key, content in value.entries():
        if not _ENV_NAME.match(key):
            content.problems.error(
                content.key, content.path, f"{key!r} is not a valid name of an environment variable"
            )
        elif (reason := refusal(key)) is not None:
            content.problems.error(content.key, content.path, reason)
        written = word(content)
        if written is not None:
            found[key] = written
    return found


def secret(value: Value) -> str | None:
    """Read the name of one of the developer's variables."""
    content = text(value)
    if content is None:
        return None
    if not _ENV_NAME.match(content):
        value.error(f"{content!r} is not a valid name of an environment variable")
    elif content in _KEYS_OF_RUNNERS:
        value.error(f"{content} cannot be passed to a job: its code could read your key for the runner")
    elif (reason := job_variables.refusal(content)) is not None:
        value.error(reason)
    else:
        return content
    return None


def relative(value: Value) -> str | None:
    """Read a path, or a pattern of paths, below the project."""
    content = text(value)
    return None if content is None else _relative(value, content)


def _relative(value: Value, content: str) -> str | None:
    parts = content.replace("\\", "/").split("/")
    if content.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0]:
        value.must("a path below the project, without '..'")
        return None
    return content


def working_dir(value: Value) -> str | None:
    """Read the folder in which a job runs: a path below the project.

    ``/app``, where other systems have the project in the container, is the project's own folder.
    """
    content = text(value)
    if content is None or not content.startswith("/"):
        return None if content is None else _relative(value, content)
    if content != _APP and not content.startswith(f"{_APP}/"):
        value.must("a path below the project, as the project's place in the container is the runner's choice")
        return None
    below_it = content[len(_APP) :].strip("/") or "."
    value.warn(f"{value.shown} is taken as the project's own folder; write {below_it!r}")
    return _relative(value, below_it)


def number(value: Value, most: float = 1e9) -> float | None:
    """Read a number above 0."""
    found = _number(value)
    if found is not None and 0 < found < most:
        return float(found)
    value.must("a number above 0")
    return None


def pattern(value: Value) -> str | None:
    """Read a pattern of paths below the project; it may contain axes of a matrix."""
    content = text(value)
    wrong = None if content is None else globs.problem(content)
    if wrong is not None:
        value.error(f"the pattern {value.shown} {wrong}")
        return None
    return content


def _number(value: Value) -> int | float | None:
    content = value.node.value if isinstance(value.node, Scalar) else None
    return content if isinstance(content, (int, float)) and not isinstance(content, bool) else None


def seconds(value: Value) -> float | None:
    """Read a time in seconds, or text such as "90s", "10m" or "1h 30m"."""
    node = value.node
    found = _number(value)
    if found is None and isinstance(node, Scalar):
        found = formats.parse_duration(node.value)
    if found is not None and 0 < found < 1e9:
        return float(found)
    value.must('seconds above 0, or a time such as "90s", "10m" or "1h 30m"')
    return None


def days(value: Value) -> float | None:
    """Read a time in days, or text such as "12h", "7d" or "2w"."""
    if isinstance(value.node, Scalar) and isinstance(value.node.value, str):
        found = seconds(value)
        return None if found is None else found / DAY
    return number(value, 36_500)


def size(value: Value) -> int | None:
    """Read a number of bytes, or text such as "2g"."""
    found = _bytes(value)
    if 0 < found < 1 << 60:
        return found
    value.must('a size such as "2g"')
    return None


def _bytes(value: Value) -> int:
    """Return the bytes of a size; 0 if the value is none."""
    node = value.node
    if isinstance(node, Scalar) and isinstance(node.value, (int, str)) and not isinstance(node.value, bool):
        with contextlib.suppress(protocol.WireError, OverflowError):
            return protocol.parse_size(node.value)
    return 0


def limit_size(value: Value) -> int | None:
    """Read a size that may be a limit of a job."""
    found = _bytes(value)
    if limits.is_size(found):
        return found
    value.must(limits.SIZE_WORDS)
    return None


def integer(low: int, high: int) -> Callable[[Value], int | None]:
    """Return a function that reads integers between two bounds."""

    def read(value: Value) -> int | None:
        node = value.node
        if isinstance(node, Scalar) and type(node.value) is int and low <= node.value <= high:
            return node.value
        value.must(f"an integer from {low} to {high}")
        return None

    return read


def reference(value: Value) -> Named | None:
    """Read the name of a stage or job, with its position."""
    found = name(value)
    return None if found is None else Named(found, value.node.place, value.path)
