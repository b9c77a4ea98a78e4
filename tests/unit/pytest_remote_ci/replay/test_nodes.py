"""Stand-ins of tests: what nobody asks for takes no memory, and is there for who asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from pytest_remote_ci.replay.nodes import Tree
from pytest_remote_ci.wire import records as wire


def collected(nodes: list[list[object]], items: list[list[object]]) -> wire.CollectReport:
    """The record of a collector that found one item."""
    return wire.CollectReport.parse({"d": {"nodeid": ""}, "nodes": nodes, "items": items, "found": [-1]})


@pytest.fixture
def item(request: pytest.FixtureRequest) -> Any:
    tree = Tree(request.session)
    location = ["test_it.py", 3, "test_a[x]"]
    nodes: list[list[object]] = [
        [-1, "", "", "", "", "", None],
        [0, "Module", "test_it.py", "test_it.py", "test_it.py", "Module", None],
    ]
    items = [[1, "Function", "test_a[x]", "test_it.py::test_a[x]", location, True, "test_a", False, None]]
    tree.add(wire.Tree.parse({"nodes": nodes, "items": items}))
    return tree.chosen[0]


#: Attribute → what a new item of pytest's has there.
ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    "own_markers": lambda found: found == [],
    "extra_keyword_matches": lambda found: found == set(),
    "user_properties": lambda found: found == [],
    "_report_sections": lambda found: found == [],
    "stash": lambda found: isinstance(found, pytest.Stash) and len(found) == 0,
    "keywords": lambda found: "test_a[x]" in found and "test_it.py" in found and found["test_a[x]"] is True,
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_is_made_when_somebody_asks(item: Any, name: str) -> None:
    assert name not in vars(item)
    found = getattr(item, name)
    assert ATTRIBUTES[name](found)
    assert getattr(item, name) is found


@pytest.mark.parametrize("doc", [None, "Words."])
def test_a_class_has_its_docstring_and_no_source(request: pytest.FixtureRequest, doc: str | None) -> None:
    tree = Tree(request.session)
    file = "test_it.py"
    nodes: list[list[object]] = [
        [-1, "", "", "", "", "", None],
        [0, "Module", file, file, file, "Module", None],
        [1, "Class", "TestA", f"{file}::TestA", file, "Class", doc],
    ]
    location = [file, 3, "TestA.test_a"]
    items = [[2, "Function", "test_a", f"{file}::TestA::test_a", location, False, "test_a", False, None]]
    tree.add(wire.Tree.parse({"nodes": nodes, "items": items}))
    found = tree.chosen[0].parent
    assert isinstance(found, pytest.Class)
    assert doc is None or found.obj.__doc__ == doc
    with pytest.raises((OSError, TypeError)):
        inspect.getsourcelines(found.obj)


def test_what_is_put_there_stays(item: Any) -> None:
    key = pytest.StashKey[int]()
    item.stash[key] = 1
    item.user_properties.append(("a", 1))
    item.keywords["more"] = 2
    item.add_marker(pytest.mark.docker)
    item.extra_keyword_matches.add("word")
    item.add_report_section("call", "stdout", "text")
    assert item.stash[key] == 1
    assert item.user_properties == [("a", 1)]
    assert dict(item.keywords)["more"] == 2
    assert [mark.name for mark in item.iter_markers()] == ["docker"]
    assert "docker" in item.keywords
    assert item.listextrakeywords() >= {"word"}
    assert item._report_sections == [("call", "stdout", "text")]
    assert vars(item)["stash"][key] == 1


def test_what_no_item_has_this_one_has_not(item: Any) -> None:
    assert not hasattr(item, "fixturenames")
    with pytest.raises(AttributeError, match="'Function' object has no attribute 'nonsense'"):
        _ = item.nonsense


def test_names_are_kept_once(item: Any) -> None:
    assert item.location == ("test_it.py", 3, "test_a[x]")
    assert item.location[2] is item.name
    assert item.nodeid == "test_it.py::test_a[x]"
    assert item.originalname == "test_a"


@pytest.mark.parametrize("name", ["test_b", "test_b[1]", "test_b[a::b]", "a::b", "[x]", ""])
def test_the_parts_of_an_id_are_those_of_its_text(request: pytest.FixtureRequest, name: str) -> None:
    tree = Tree(request.session)
    nodes: list[list[object]] = [
        [-1, "", "", "", "", "", None],
        [0, "Module", "test_it.py", "test_it.py", "test_it.py", "Module", None],
    ]
    tree.found(collected(nodes, [[1, "Function", name, 0, None]]))
    (item,) = tree._found
    assert item.nodeid == f"test_it.py::{name}"
    if hasattr(item, "id"):  # since pytest 9.2
        report: Any = pytest.TestReport(item.nodeid, ("", 0, ""), {}, "passed", None, "call")
        assert item.id == report.id


@pytest.mark.parametrize("nodeid", ["elsewhere.py::test_b", "test_it.py::test_b@group", "test_it.py"])
def test_a_node_id_may_be_another_than_its_name_suggests(request: pytest.FixtureRequest, nodeid: str) -> None:
    tree = Tree(request.session)
    nodes: list[list[object]] = [
        [-1, "", "", "", "", "", None],
        [0, "Module", "test_it.py", "test_it.py", "test_it.py", "Module", None],
    ]
    tree.found(collected(nodes, [[1, "Function", "test_b", 0, nodeid]]))
    items = [[1, "Function", "test_b", nodeid, ["x.py", 1, "test_b"], False, None, False, None]]
    tree.add(wire.Tree.parse({"nodes": [], "items": items}))
    assert [item.nodeid for item in tree.chosen] == [nodeid]
    assert list(tree.items) == [nodeid]
