"""A sampled run takes its share of each matrix, and a few days together run all of it."""

from __future__ import annotations

import pytest
from support.sampling import chosen, split

SUITE = """
import pytest

@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", range(6))
def test_many(number): pass

class TestMore:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("number", range(3))
    def test_many(self, number): pass

@pytest.mark.parametrize("number", range(3))
def test_all(number): pass

@pytest.mark.sampled(5)
def test_one(): pass
"""


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 1), (7, 3), (38, 9), (3, 5), (6, 6)])
def test_as_many_as_are_wanted_from_any_start(count: int, wanted: int) -> None:
    assert {len(chosen(count, wanted, start)) for start in range(50)} == {min(count, wanted)}


@pytest.mark.parametrize(("count", "wanted"), [(7, 3), (38, 9), (11, 2)])
def test_starts_one_after_the_other_choose_all(count: int, wanted: int) -> None:
    starts = -(-count // wanted)
    assert set().union(*(chosen(count, wanted, start) for start in range(starts))) == set(range(count))


def test_only_marked_tests_are_sampled_each_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n  sampled(n): n cases\n  every(n): n days\n")
    items, _ = pytester.inline_genitems(pytester.makepyfile(SUITE))
    kept, left_out = split(items, start=1)
    assert [item.nodeid.partition("::")[2] for item in kept] == [
        "test_many[1]",
        "test_many[4]",
        "TestMore::test_many[1]",
        "test_all[0]",
        "test_all[1]",
        "test_all[2]",
        "test_one",
    ]
    assert len(left_out) == 6
    assert {*kept, *left_out} == {*items}


def test_a_test_for_every_third_day_runs_on_one_of_three(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n  every(n): n days\n")
    tests = "".join(f"@pytest.mark.every(3)\ndef test_{number}(): pass\n" for number in range(10))
    items, _ = pytester.inline_genitems(pytester.makepyfile(f"import pytest\n{tests}"))
    shares = [{item.nodeid for item in split(items, start)[0]} for start in range(3)]
    assert sum(len(share) for share in shares) == len(set().union(*shares)) == 10
    assert all(len(share) < 10 for share in shares)


def test_files_of_whole_runners_take_turns_and_each_of_their_tests_has_its_day(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeini("[pytest]\nmarkers =\n  sampled(n): n cases\n  every(n): n days\n")
    folder = pytester.mkdir("tests") / "e2e"
    folder.mkdir()
    tests = "".join(f"@pytest.mark.every(2)\ndef test_{number}(): pass\n" for number in range(4))
    for number in range(6):
        (folder / f"test_{number}.py").write_text(f"import pytest\n{tests}def test_often(): pass\n")
    items, _ = pytester.inline_genitems(folder)
    shares = [{item.nodeid for item in split(items, start)[0]} for start in range(4)]
    files = [{nodeid.partition("::")[0] for nodeid in share} for share in shares]
    assert files[0] | files[1] == {item.nodeid.partition("::")[0] for item in items}
    assert not files[0] & files[1]
    assert set().union(*shares) == {item.nodeid for item in items}
