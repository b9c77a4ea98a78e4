"""Whose job starts next."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_runner.model.fair_queue import fair_order, running_per_user
from ci_runner.model.job import Job
from ci_runner.settings.groups import PRIORITY_RANK

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)


def at(second: float) -> dt.datetime:
    return NOON + dt.timedelta(seconds=second)


def job(name: str, second: float, **fields: Any) -> Job:
    """A waiting job: user and number, as in "a1"."""
    return Job(name, user_id=name[0], submitted_at=at(second), **fields)


def ids(jobs: list[Job]) -> str:
    return " ".join(item.id for item in jobs)


@pytest.mark.parametrize(
    ("jobs", "served", "running", "expected"),
    [
        pytest.param([], {}, {}, "", id="nothing waits"),
        pytest.param([job("a2", 2), job("a1", 1)], {}, {}, "a1 a2", id="one user's jobs start as submitted"),
        pytest.param(
            [job("a1", 1), job("a2", 2), job("a3", 3), job("b1", 9)], {}, {}, "a1 b1 a2 a3", id="turns"
        ),
        pytest.param([job("a1", 1), job("b1", 9)], {"a": at(0)}, {}, "b1 a1", id="never served goes first"),
        pytest.param(
            [job("a1", 1), job("b1", 2)], {"a": at(5), "b": at(4)}, {}, "b1 a1", id="longest ago first"
        ),
        pytest.param(
            [job("a1", 1), job("b1", 2)],
            {"b": at(4)},
            {"a": 1},
            "b1 a1",
            id="fewer running jobs count more than time",
        ),
        pytest.param(
            [job("a1", 1), job("a2", 2), job("b1", 3), job("b2", 4)],
            {},
            {"b": 2},
            "a1 a2 b1 b2",
            id="catching up",
        ),
        pytest.param(
            [job("a1", 1), job("b1", 2, priority="low"), job("b2", 3, priority="high")],
            {},
            {"b": 7},
            "b2 a1 b1",
            id="priority before turns",
        ),
        pytest.param(
            [job("a1", 1, priority="high"), job("a2", 2), job("b1", 3)],
            {},
            {},
            "a1 b1 a2",
            id="turns across priorities",
        ),
    ],
)
def test_the_order_is_fair(jobs: list[Job], served: Any, running: Any, expected: str) -> None:
    assert ids(fair_order(jobs, served, running)) == expected


@pytest.mark.parametrize("running", [{}, {"a": 1}, {"a": 4}])
def test_one_job_starts_before_somebody_elses_hundred(running: dict[str, int]) -> None:
    hundred = [job(f"a{number}", number) for number in range(100)]
    order = fair_order([*hundred, job("b0", 500)], {"a": at(400)}, running)
    assert order[0].id == "b0"


JOBS = st.builds(
    lambda user, second, priority: (user, second, priority),
    st.sampled_from("abcd"),
    st.integers(0, 5),
    st.sampled_from(["high", "normal", "low"]),
)


@given(
    st.lists(JOBS, max_size=40),
    st.dictionaries(st.sampled_from("abcd"), st.integers(-9, 9).map(at)),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)),
)
def test_any_order_keeps_the_promises(raw: Any, served: Any, running: Any) -> None:
    jobs = [job(f"{user}{index}", second, priority=level) for index, (user, second, level) in enumerate(raw)]
    order = fair_order(jobs, served, running)
    assert Counter(item.id for item in order) == Counter(item.id for item in jobs), (
        "every job has exactly one place"
    )
    ranks = [PRIORITY_RANK[item.priority] for item in order]
    assert ranks == sorted(ranks), "priority first"
    for user in "abcd":
        for rank in PRIORITY_RANK.values():
            mine = [item for item in order if item.user_id == user and PRIORITY_RANK[item.priority] == rank]
            assert mine == sorted(mine, key=lambda item: (item.submitted_at, item.id)), (
                "in the order of submission"
            )
    taken = Counter(running)
    for place, item in enumerate(order):
        same = {other.user_id for other in order[place:] if other.priority == item.priority}
        assert taken[item.user_id] == min(taken[user] for user in same), "nobody with less is passed over"
        taken[item.user_id] += 1
    assert fair_order(reversed(jobs), served, running) == order, (
        "the order in which jobs are given does not matter"
    )


def test_taken_up_jobs_are_counted_unless_their_environment_is_being_built() -> None:
    jobs = [
        job("a1", 1),
        job("a2", 1, phase="testing", status="running"),
        job("a3", 1, phase="preparing", status="running", building=True),
        job("b1", 1, phase="preparing", status="running"),
        job("b2", 1, phase="finishing", status="completed"),
    ]
    assert running_per_user(jobs) == {"a": 1, "b": 1}


def test_jobs_without_a_user_take_turns_as_one() -> None:
    assert ids(fair_order([Job("x"), Job("y"), job("a1", 1)], {})) in ("x a1 y", "a1 x y")
