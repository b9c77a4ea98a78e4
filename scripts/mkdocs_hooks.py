"""Hooks of the documentation site (mkdocs.yml): render as GitHub does, and warn about what would be wrong.

Warnings fail `mkdocs build --strict`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

_log = logging.getLogger("mkdocs.hooks.site")
#: A list that follows a paragraph without a blank line: GitHub shows a list, Python-Markdown shows running text.
_SWALLOWED_LIST = re.compile(r"<p>(?:(?!</p>).)*?\n((?:-|\*|1\.) [^\n]{,40})", re.DOTALL)
_REMOTE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"((?:https?:)?//[^\"]*)\"")


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Show `\\|` in tables as a pipe, and warn about lists that are shown as running text."""
    for found in _SWALLOWED_LIST.finditer(html):
        _log.warning("%s: add a blank line before the list that begins with %r", page.file.src_uri, found[1])
    return html.replace("\\|", "|")


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Warn about scripts, styles and images that a reader's browser would load from another host."""
    for found in _REMOTE.finditer(output):
        _log.warning("%s loads %s", page.file.src_uri, found[1])
    return output
