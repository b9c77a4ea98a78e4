"""Node ids and places of a job's tests in a session that tells several jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.replay.multi_job.labels import Labelling, labels_of
from pytest_remote_ci.wire import records as wire

ROOT = Path("/home/ann/project")
LABEL = "tests (python=3.12)"


def labelling(root: Path = ROOT, cwd: Path = ROOT, here: Path = ROOT, started: Path = ROOT) -> Labelling:
    made = Labelling(LABEL)
    made.set_paths(root, cwd, here, started)
    return made


#: What records of these kinds cannot do without.
REST: dict[str, dict[str, Any]] = {
    "passed": {"when": "call"},
    "warning": {
        "message": "m",
        "name": "W",
        "module": "w",
        "bases": [],
        "file": "a.py",
        "lineno": 1,
        "line": None,
        "when": "runtest",
    },
}


def labelled(made: Labelling, raw: dict[str, Any]) -> dict[str, Any]:
    """The record with these fields as it is played."""
    record = wire.parse({**REST.get(raw["t"], {}), **raw})
    assert record is not None
    dumped = json.loads(json.dumps(made.record(record).dump()))
    return {name: dumped[name] for name in raw}


NAMES = [
    (["lint", "tests (python=3.12)"], ["lint", "tests (python=3.12)"]),
    (["tests (image=ghcr.io/x/y:1)"], ["tests (image=ghcr.io_x_y:1)"]),
    (["a[1]", "a::b", " c\n"], ["a(1)", "a:b", "c"]),
    (["a/b", "a_b", "a[b", "a(b"], ["a_b", "a_b #2", "a(b", "a(b #2"]),
]


@pytest.mark.parametrize(("names", "labels"), NAMES, ids=lambda value: " ".join(value))
def test_labels_mean_nothing_in_a_node_id_and_are_all_different(names: list[str], labels: list[str]) -> None:
    assert list(labels_of(names).values()) == labels


EVENTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {
            "t": "started",
            "id": "a/test_a.py::T::test_x[1/2]",
            "location": ["a/test_a.py", 3, "T.test_x[1/2]"],
        },
        {
            "id": f"{LABEL}/a/test_a.py::T::test_x[1/2]",
            "location": ["a/test_a.py", 3, f"{LABEL}: T.test_x[1/2]"],
        },
    ),
    (
        {"t": "passed", "id": "a.py::t", "location": ["a.py", 3, "t"], "when": "call"},
        {"id": f"{LABEL}/a.py::t", "location": ["a.py", 3, f"{LABEL}: t"], "when": "call"},
    ),
    ({"t": "warning", "id": "", "location": None}, {"id": "", "location": None}),
    (
        {"t": "warning", "id": "test_a.py::t", "location": ["test_a.py", 3, "f"]},
        {"id": f"{LABEL}/test_a.py::t", "location": ["test_a.py", 3, "f"]},
    ),
    ({"t": "worker", "id": "gw0", "line": "[gw0]"}, {"id": "gw0"}),
    (
        {
            "t": "collect_report",
            "d": {"nodeid": ".", "longrepr": None},
            "items": [[0, "Function", "t", 3, None]],
        },
        {"d": {"nodeid": LABEL, "longrepr": None}, "items": [[0, "Function", "t", 3, None]]},
    ),
    (
        {
            "t": "tree",
            "nodes": [[-1, "S", "", "", ".", "Dir", None], [0, "M", "a.py", "a.py", "a.py", "M", "doc"]],
            "items": [[1, "Function", "t", "a.py::t", ["a.py", 1, "t"], False, None, False, None]],
        },
        {
            "nodes": [
                [-1, "S", "", LABEL, ".", "Dir", None],
                [0, "M", "a.py", f"{LABEL}/a.py", "a.py", "M", "doc"],
            ],
            "items": [
                [1, "Function", "t", f"{LABEL}/a.py::t", ["a.py", 1, f"{LABEL}: t"], False, None, False, None]
            ],
        },
    ),
    ({"t": "collected_ids", "ids": ["a.py::t"]}, {"ids": [f"{LABEL}/a.py::t"]}),
]


@pytest.mark.parametrize(("event", "changed"), EVENTS, ids=[event["t"] for event, _ in EVENTS])
def test_the_label_stands_before_the_path_and_the_place_stays(
    event: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert labelled(labelling(), event) == {**event, **changed}


def test_a_test_of_a_job_in_a_folder_is_where_its_file_is() -> None:
    made = labelling(root=ROOT / "sub", cwd=ROOT / "sub")
    event = {"t": "started", "id": "a.py::t[x/../y]", "location": ["a.py", 1, "t"]}
    told = labelled(made, event)
    assert (told["id"], told["location"][0]) == (f"{LABEL}/sub/a.py::t[x/../y]", "sub/a.py")
    assert made.plain(told["id"]) == "sub/a.py::t[x/../y]"
    assert made.plain("other/sub/a.py::t") is None
    assert (
        made.words("killed while running a.py::t[x/../y]", [told["id"]])
        == f"killed while running {told['id']}"
    )


@pytest.mark.parametrize(
    ("path", "seen"),
    [("sub/a.py", "a.py"), ("b.py", "../b.py"), ("/usr/x.py", "/usr/x.py"), ("<string>", "<string>")],
)
def test_tracebacks_are_seen_from_where_pytest_was_started(path: str, seen: str) -> None:
    made = labelling(started=ROOT / "sub")
    place = {"path": path, "lineno": 3, "message": ""}
    entry = {"type": "ReprEntry", "data": {"lines": ["E  x"], "reprfileloc": place}}
    longrepr = {"chain": [[{"reprentries": [entry]}, None, None]], "reprcrash": {"path": "/x/a.py"}}
    report = {"t": "report", "d": {"nodeid": "a.py::t", "location": ["a.py", 1, "t"], "longrepr": longrepr}}
    told = labelled(made, report)["d"]["longrepr"]
    assert told["chain"][0][0]["reprentries"][0]["data"]["reprfileloc"] == {**place, "path": seen}
    assert told["reprcrash"] == longrepr["reprcrash"]
    assert place["path"] == path, "the event itself is left alone"
