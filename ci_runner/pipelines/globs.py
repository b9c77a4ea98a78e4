"""Patterns of paths and tags: ``*`` and ``?`` within a part, ``**`` across parts, ``[abc]``; whole paths are compared.

What lies in a folder that matches, matches, too; a pattern without a slash matches a name at any depth.
"""

from __future__ import annotations

import re
from functools import lru_cache


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern matches a path relative to the project, in POSIX form."""
    anchored = "/" in pattern.rstrip("/")
    body = _regex(pattern.strip("/").removeprefix("./"))
    return re.match(rf"{'' if anchored else '(?:.*/)?'}{body}(?:/.*)?\Z", path, re.DOTALL) is not None


def matches_tag(pattern: str, tag: str) -> bool:
    """Whether a pattern matches the whole of a tag."""
    return re.match(rf"{_regex(pattern)}\Z", tag, re.DOTALL) is not None


@lru_cache(maxsize=256)
def _regex(pattern: str) -> str:
    result, at = "", 0
    pattern = re.sub(r"\*{3,}", "**", pattern)
    while at < len(pattern):
        if pattern.startswith("**/", at):
            if not result.endswith("(?:.*/)?"):
                result += "(?:.*/)?"
            at += 3
            continue
        if pattern.startswith("**", at):
            result, at = f"{result}.*", at + 2
            continue
        character = pattern[at]
        closing = pattern.find("]", at + 2) if character == "[" else -1
        if character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif closing > 0:
            inner = pattern[at + 1 : closing]
            negated = "^" if inner[0] in "!^" else ""
            result += f"[{negated}{re.escape(inner[len(negated) :]).replace(chr(92) + '-', '-')}]"
            at = closing
        else:
            result += re.escape(character)
        at += 1
    return result
