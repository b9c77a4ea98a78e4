"""Find a job or a run by the beginning of its id.

Users type the first characters of an id. The runner only knows whole ids, so the client looks for those that begin
with them, newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pytest_remote_ci.errors import AmbiguousId, JobNotFound

#: Characters of a whole id, which is not looked up.
_WHOLE: Final = 36
#: Items in one page of a list, and the maximum number of pages.
PAGE: Final = 1000
_MOST_PAGES: Final = 100
#: Ids that a message lists, and the longest one that a runner may have.
_LISTED: Final = 5
_LONGEST: Final = 100

#: Function that returns the ids of the page of a list after an id; None: the first page.
Pages = Callable[["str | None"], Sequence[str]]


def whole_id(kind: str, word: str, pages: Pages) -> str:
    """Return the id of the one `kind` ("job", "run") whose id begins with `word`; whole ids are returned unchanged.

    Raises `JobNotFound`, and `AmbiguousId` with the ids if there are several.
    """
    if len(word) >= _WHOLE:
        return word
    found = _candidates(word, pages) if word else []
    if not found:
        raise JobNotFound(f"{kind.capitalize()} not found: {word}")
    if len(found) > 1:
        more = " and more" if len(found) > _LISTED else ""
        listed = ", ".join(found[:_LISTED])
        raise AmbiguousId(f"Several {kind}s begin with {word}: {listed}{more}; give more of the id")
    return found[0]


def _candidates(word: str, pages: Pages) -> list[str]:
    """Return the ids that begin with `word`, newest first; stop when there are more than a message lists."""
    found: list[str] = []
    before: str | None = None
    for _ in range(_MOST_PAGES):
        page = pages(before)
        names = [name for name in page if len(name) <= _LONGEST]
        found += [name for name in names if name.startswith(word) and name not in found]
        if word in found:
            return [word]
        if len(page) < PAGE or len(found) > _LISTED or not names:
            break
        before = names[-1]
    return found
