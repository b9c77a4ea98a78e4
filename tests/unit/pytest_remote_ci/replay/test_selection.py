"""Which tests of a stored session the paths and node ids of a replay choose."""

from __future__ import annotations

import pytest

from pytest_remote_ci.replay.selection import Choice

TESTS = [
    "tests/api/test_a.py::test_x",
    "tests/api/test_a.py::test_x[1]",
    "tests/api/test_a.py::test_x[1-2]",
    "tests/api/test_a.py::test_xy",
    "tests/api/test_a.py::TestA::test_in",
    "tests/api/test_a.py::TestAB::test_in",
    "tests/api/test_a.pyx::test_x",
    "tests/api_v2/test_a.py::test_x",
    "tests/test_top.py::test_x",
    "tests_more/test_a.py::test_x",
]


def chosen_by(pytester: pytest.Pytester, *arguments: str, create: bool = True) -> Choice:
    """The choice of these arguments, in a project that has the files or not."""
    if create:
        for nodeid in TESTS:
            path = pytester.path / nodeid.partition("::")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return Choice(pytester.parseconfig("-p", "no:remote_ci", *arguments))


@pytest.mark.parametrize("create", [True, False], ids=["files are here", "files are elsewhere"])
@pytest.mark.parametrize(
    ("argument", "numbers"),
    [
        ("tests/api", [0, 1, 2, 3, 4, 5, 6]),
        ("tests/api/", [0, 1, 2, 3, 4, 5, 6]),
        ("tests/api_v2", [7]),
        ("tests", [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("tests/api/test_a.py", [0, 1, 2, 3, 4, 5]),
        ("tests/api/test_a.py::test_x", [0, 1, 2]),
        ("tests/api/test_a.py::test_x[1]", [1]),
        ("tests/api/test_a.py::TestA", [4]),
        ("tests/api/test_a.py::TestA::test_in", [4]),
        ("tests/ap", []),
    ],
)
def test_a_path_chooses_what_lies_below_it(
    pytester: pytest.Pytester, argument: str, numbers: list[int], create: bool
) -> None:
    choice = chosen_by(pytester, argument, create=create)
    assert choice.has_paths
    assert [number for number, nodeid in enumerate(TESTS) if choice.has(nodeid)] == numbers
    assert choice.missing(TESTS) == ([] if numbers else [argument])


def test_several_paths_choose_what_any_of_them_does(pytester: pytest.Pytester) -> None:
    choice = chosen_by(pytester, "tests/api_v2", "tests/test_top.py", "tests/none.py")
    assert [number for number, nodeid in enumerate(TESTS) if choice.has(nodeid)] == [7, 8]
    assert choice.missing(TESTS) == ["tests/none.py"]


@pytest.mark.parametrize("arguments", [(), (".",)])
def test_no_path_and_the_root_choose_all(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    choice = chosen_by(pytester, *arguments)
    assert all(choice.has(nodeid) for nodeid in TESTS)
    assert choice.has_paths is bool(arguments)


def test_collectors_above_and_below_are_concerned_and_neighbours_are_not(pytester: pytest.Pytester) -> None:
    choice = chosen_by(pytester, "tests/api/test_a.py::TestA")
    collectors = [".", "tests", "tests/api", "tests/api/test_a.py", "tests/api/test_a.py::TestA"]
    assert all(choice.concerns(nodeid) for nodeid in collectors)
    others = ["tests/ap", "tests/api_v2", "tests/api/test_a.pyx", "tests/api/test_a.py::TestAB", "tests_more"]
    assert not [nodeid for nodeid in others if choice.concerns(nodeid)]
