"""Which files of a project are the by-products of tools."""

from __future__ import annotations

import pytest

from pytest_remote_ci.wire.changes import is_by_product


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (".approval_tests_temp/.approved_files.log", True),
        ("tests/.mypy_cache/x.json", True),
        ("p.egg-info/PKG-INFO", True),
        ("tests/__pycache__/a.pyc", True),
        ("tests/a.approved.txt", False),
        ("tests/__snapshots__/a.ambr", False),
    ],
)
def test_by_products_are_recognised(path: str, is_one: bool) -> None:
    assert is_by_product(path) is is_one
