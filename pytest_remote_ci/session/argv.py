"""The one walker of pytest's command line: it distinguishes options, their values, and paths.

It works on text, because the job's pytest may have options that the local one does not know. What takes a value is
asked of pytest's parser, if there is one, and of `pytest_remote_ci.options`.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_remote_ci import options

#: Returns whether an option (``-k``, ``--ignore``) takes a value; None if it is not known locally.
TakesValue = Callable[[str], "bool | None"]
_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")


@dataclass(frozen=True)
class Word:
    """An option with its value, or another argument: a path, a node id, or "--" before names with a dash."""

    text: str
    #: None for an argument that is not an option. Of several flags in one argument (``-xvk``), the last one.
    option: str | None = None
    value: str | None = None
    #: Whether the value is a separate argument.
    is_apart: bool = False
    #: Flags before `option` in the same argument: ``-x`` and ``-v`` in ``-xvk``.
    flags: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """All options of this argument."""
        return self.flags if self.option is None else (*self.flags, self.option)

    @property
    def is_path(self) -> bool:
        """Whether it is a path or a node id."""
        return self.option is None and self.text != "--"

    @property
    def texts(self) -> list[str]:
        """The arguments as given."""
        return [self.text, self.value] if self.is_apart and self.value is not None else [self.text]

    def with_value(self, value: str) -> list[str]:
        """Return the arguments with another value."""
        if self.is_apart:
            return [self.text, value]
        return [self.text[: len(self.text) - len(self.value or "")] + value]


def with_files(argv: Iterable[str]) -> list[str]:
    """Return the arguments with each ``@FILE`` replaced by the lines of the file, as argparse does.

    Files can name further files. Names are relative to the working directory. An unreadable file is left to pytest,
    which reports it.
    """
    result: list[str] = []
    for text in argv:
        lines = _lines_of(text[1:]) if text.startswith("@") else None
        result += [text] if lines is None else with_files(lines)
    return result


def _lines_of(file: str) -> list[str] | None:
    try:
        return os.fsdecode(Path(file).read_bytes()).splitlines()
    except (OSError, ValueError):
        return None


def words(argv: Iterable[str], takes_value: TakesValue = options.takes_value) -> Iterator[Word]:
    """Yield the arguments, each option with its value."""
    rest = deque(argv)
    while rest:
        text = rest.popleft()
        if text == "--":
            yield Word(text)
            yield from (Word(item) for item in rest)
            return
        if not text.startswith("-") or text == "-":
            yield Word(text)
        else:
            flags, option, value = _split(text, takes_value)
            is_apart = value is None and bool(rest) and not _is_option(rest[0])
            is_apart = is_apart and bool(_takes_value(option, takes_value))
            yield Word(text, option, rest.popleft() if is_apart else value, is_apart=is_apart, flags=flags)


def names(argv: Iterable[str], takes_value: TakesValue = options.takes_value) -> set[str]:
    """Return all options in `argv`."""
    return {option for word in words(argv, takes_value) for option in word.options}


def _is_option(text: str) -> bool:
    """Return whether argparse, and so pytest, never takes this text as the value of the option before it."""
    return text.startswith("-") and text != "-" and " " not in text and not _NUMBER.fullmatch(text)


def _split(text: str, takes_value: TakesValue) -> tuple[tuple[str, ...], str, str | None]:
    """Return the flags and the option in `text`, and the option's value if it is the end of `text`."""
    if text.startswith("--"):
        option, equals, value = text.partition("=")
        return (), option, (value if equals else None)
    if options.takes_value(text) is not None:  # -VV
        return (), text, None
    letters = [f"-{letter}" for letter in text[1:]]
    for index, option in enumerate(letters):
        takes = _takes_value(option, takes_value)
        if takes is None:  # the rest can be anything, such as the 4 of -n4
            break
        if takes or index == len(letters) - 1:
            return tuple(letters[:index]), option, (text[index + 2 :] or None)
    return (), text, None


def _takes_value(option: str, takes_value: TakesValue) -> bool | None:
    ours = options.takes_value(option)
    if option in options.OWN_NAMES:
        return ours
    known = takes_value(option)
    return ours if known is None else known
