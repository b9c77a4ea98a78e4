"""Which run a word names: an id, the beginning of one, a pipeline, a pipeline's number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_runner import KEY, Request, fake_runner

from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.runs import Runs
from pytest_remote_ci.errors import AmbiguousId, JobNotFound

#: Newest first, as the runner lists them.
COMMON: dict[str, Any] = {"status": "completed", "jobs": []}
STORED = [
    {"run_id": "e2e00000-0000-4000-8000-000000000000", "pipeline": "ci", "number": 3},
    {"run_id": "aa200000-0000-4000-8000-000000000000", "pipeline": "e2e", "number": 2},
    {"run_id": "aa100000-0000-4000-8000-000000000000", "pipeline": "e2e", "number": 1},
    {
        "run_id": "bb000000-0000-4000-8000-000000000000",
        "pipeline": "a name that is longer than any id is",
        "number": 1,
    },
    {"run_id": "cc000000-0000-4000-8000-000000000000", "pipeline": "a/b #1", "number": 1},
]


def answer(request: Request) -> tuple[int, Any, dict[str, str]]:
    if request.path == "/runs":
        wanted = request.query.get("pipeline")
        found = [COMMON | run for run in STORED if wanted in (None, run["pipeline"])]
        return 200, found[: int(request.query.get("limit", "1000"))], {}
    for run in STORED:
        if request.path in (f"/runs/{run['run_id']}", f"/pipelines/{run['pipeline']}/runs/{run['number']}"):
            return 200, COMMON | run, {}
    return 404, {"detail": "Run not found"}, {}


@pytest.fixture
def runs() -> Iterator[Runs]:
    with fake_runner() as runner, Client(runner.url, KEY) as client:
        runner.intercept = answer
        yield Runs(client)


@pytest.mark.parametrize(
    ("word", "run_id"),
    [
        pytest.param("ci", "e2e0", id="a pipeline is its newest run"),
        pytest.param("e2e", "aa20", id="a pipeline goes before the beginning of an id"),
        pytest.param("e2e0", "e2e0", id="the beginning of an id"),
        pytest.param("aa100000-0000-4000-8000-000000000000", "aa10", id="a whole id"),
        pytest.param("e2e#1", "aa10", id="a number of a pipeline"),
        pytest.param("a name that is longer than any id is", "bb00", id="a long name"),
    ],
)
def test_a_word_names_a_run(runs: Runs, word: str, run_id: str) -> None:
    assert runs.find(word).run_id.startswith(run_id)


@pytest.mark.parametrize(
    "word", ["", "nine", "a/b #x", "aa1x", "dd000000-0000-4000-8000-000000000000", "\udcff", "a\nb"]
)
def test_what_names_no_run_is_not_found(runs: Runs, word: str) -> None:
    with pytest.raises(JobNotFound, match="Run not found"):
        runs.find(word)


def test_the_beginning_of_several_ids_names_none(runs: Runs) -> None:
    with pytest.raises(AmbiguousId, match="Several runs begin with aa: aa"):
        runs.find("aa")


def test_the_newest_run_is_asked_for_by_the_name_alone(runs: Runs) -> None:
    assert runs.newest("e2e").number == 2
    assert runs.newest("a/b #1").number == 1
    for name in ("", "aa20", "\udcff"):
        with pytest.raises(JobNotFound, match="has no run"):
            runs.newest(name)
