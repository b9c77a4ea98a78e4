"""The documented tables are those that are tested."""

from __future__ import annotations

from . import page


def test_the_page_is_the_present_one() -> None:
    assert page.PAGE.read_text() == page.build(), "renew it: scripts/parity-page"
