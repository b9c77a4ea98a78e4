"""What is told of collected items inside a job."""

from __future__ import annotations

import pytest

from pytest_remote_ci.job.nodes import Tree

MARKED = """
import pytest
pytestmark = pytest.mark.of_module
@pytest.mark.of_class
class TestIt:
    @pytest.mark.own(1, a=2, b=[3])
    def test_a(self):
        pass
    def test_b(self):
        pass
"""


def test_marks_of_what_holds_an_item_come_behind_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n    own\n    of_class\n    of_module\n")
    pytester.makepyfile(test_marked=MARKED, test_plain="def test():\n    pass\n")
    *items, plain = pytester.inline_genitems()[0]
    tree = Tree(items[0].config)
    told = [tree.item(item).marks for item in items]
    assert told == [
        (("own", {"a": 2}), ("of_class", {}), ("of_module", {})),
        (("of_class", {}), ("of_module", {})),
    ]
    assert [[name for name, _ in marks] for marks in told] == [
        [mark.name for mark in item.iter_markers()] for item in items
    ]
    assert len(tree.item(plain).dump()) == 9
