"""Records on the wire: every kind there and back, hostile values, and records of other versions."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_remote_ci.wire import records
from pytest_remote_ci.wire.records import Record, RecordError

ROOT = Path(__file__).resolve().parents[4]
DATA: records.ReportData = {
    "nodeid": "t.py::x",
    "outcome": "passed",
    "when": "call",
    "$report_type": "TestReport",
}
NODE = records.TreeNode(-1, "Session", "p", "", ".", "Dir", None)
FOUND = records.FoundItem(0, "Function", "x", 3, None)
ITEM = records.TreeItem(0, "Function", "x[1]", "t.py::x[1]", ("t.py", 3, "x[1]"), True, "x", False, None)
MARKED = ITEM._replace(doc="A test.", marks=(("slow", {"reason": "why", "n": 1}),))

#: A record of each kind with all its fields, and its JSON.
EACH: list[tuple[Record, str]] = [
    (records.Recorder(protocol=2, cwd="/p"), '{"t":"recorder","protocol":2,"cwd":"/p"}'),
    (records.Refused(plugins=["pytest-cov"]), '{"t":"refused","plugins":["pytest-cov"]}'),
    (records.Unavailable(reason="old"), '{"t":"unavailable","reason":"old"}'),
    (
        records.Session(
            protocol=2,
            pytest="9.0",
            python="3.8.1",
            rootdir="/p",
            xdist=False,
            at=1.5,
            maxfail=0,
            metadata={"Python": "3.8.1"},
            measured=True,
            plugins=["pytest-cov"],
        ),
        (
            '{"t":"session","protocol":2,"pytest":"9.0","python":"3.8.1","rootdir":"/p","xdist":false,"at":1.5,'
            '"maxfail":0,"metadata":{"Python":"3.8.1"},"measured":true,"plugins":["pytest-cov"]}'
        ),
    ),
    (records.Header(lines=["a", "b"]), '{"t":"header","lines":["a","b"]}'),
    (records.Collecting(), '{"t":"collecting"}'),
    (records.CollectingFile(id="t.py"), '{"t":"collecting_file","id":"t.py"}'),
    (records.JunitProperties(properties=[("a", 1)]), '{"t":"junit","properties":[["a",1]]}'),
    (
        records.JunitAttribute(id="t.py::x", name="n", value="v"),
        '{"t":"junit_attribute","id":"t.py::x","name":"n","value":"v"}',
    ),
    (records.WorkerLine(id="gw0", line="[gw0] linux"), '{"t":"worker","id":"gw0","line":"[gw0] linux"}'),
    (
        records.TestsOver(shouldfail="stopping", shouldstop=None),
        '{"t":"tests_over","shouldfail":"stopping","shouldstop":null}',
    ),
    (records.Summary(), '{"t":"summary"}'),
    (records.Summary(metadata={"a": 1}), '{"t":"summary","metadata":{"a":1}}'),
    (
        records.End(exitstatus=1, cache={"cache/stepwise": None}),
        '{"t":"end","exitstatus":1,"cache":{"cache/stepwise":null}}',
    ),
    (records.Returned(exitstatus=5), '{"t":"returned","exitstatus":5}'),
    (
        records.Interrupt(name="Exit", module="_pytest.outcomes", message="m", code=3, at=("/p/t.py", 7)),
        '{"t":"interrupt","name":"Exit","module":"_pytest.outcomes","message":"m","code":3,"at":["/p/t.py",7]}',
    ),
    (
        records.InternalError(text="INTERNALERROR", exception="E: x"),
        '{"t":"internal_error","text":"INTERNALERROR","exception":"E: x"}',
    ),
    (records.Stopped(), '{"t":"stopped"}'),
    (
        records.Died(text="killed", again=False, stopped=True, sections=[("out", "x")]),
        '{"t":"died","text":"killed","again":false,"stopped":true,"sections":[["out","x"]]}',
    ),
    (
        records.Died(text="killed", again=True, collecting=False),
        '{"t":"died","text":"killed","again":true,"collecting":false}',
    ),
    (records.Note(text="n"), '{"t":"note","text":"n"}'),
    (records.Truncated(), '{"t":"truncated"}'),
    (records.OutputMark(), '{"t":"mark"}'),
    (
        records.CollectReport(d=DATA, nodes=[NODE], items=[FOUND], found=[0, -1], worker="gw0"),
        (
            '{"t":"collect_report","d":{"nodeid":"t.py::x","outcome":"passed","when":"call","$report_type":"TestReport"},'
            '"nodes":[[-1,"Session","p","",".","Dir",null]],"items":[[0,"Function","x",3,null]],"found":[0,-1],'
            '"worker":"gw0"}'
        ),
    ),
    (records.Deselected(count=2, found=None), '{"t":"deselected","count":2,"found":null}'),
    (
        records.Tree(nodes=[NODE], items=[ITEM, MARKED]),
        (
            '{"t":"tree","nodes":[[-1,"Session","p","",".","Dir",null]],'
            '"items":[[0,"Function","x[1]","t.py::x[1]",["t.py",3,"x[1]"],true,"x",false,null],'
            '[0,"Function","x[1]","t.py::x[1]",["t.py",3,"x[1]"],true,"x",false,"A test.",'
            '[["slow",{"reason":"why","n":1}]]]]}'
        ),
    ),
    (records.Collected(count=1), '{"t":"collected","count":1}'),
    (records.CollectedIds(ids=["a"]), '{"t":"collected_ids","ids":["a"]}'),
    (records.CollectionLines(lines=["a"]), '{"t":"collection_lines","lines":["a"]}'),
    (
        records.Started(id="t.py::x", location=("t.py", None, "x"), at=1.0),
        '{"t":"started","id":"t.py::x","location":["t.py",null,"x"],"at":1.0}',
    ),
    (
        records.Finished(id="t.py::x", location=("t.py", 3, "x")),
        '{"t":"finished","id":"t.py::x","location":["t.py",3,"x"]}',
    ),
    (
        records.Report(
            d=DATA,
            crash=True,
            flattened="ReprText",
            markup="\x1b[31m",
            worker="gw0",
            status=("rerun", "R", ("RERUN", {"yellow": True})),
            unseen=True,
            logs=[{"msg": "m"}],
            shared=1,
            values={0: ("literal", "(1,)")},
        ),
        (
            '{"t":"report","d":{"nodeid":"t.py::x","outcome":"passed","when":"call","$report_type":"TestReport"},'
            '"crash":true,"flattened":"ReprText","markup":"\\u001b[31m","worker":"gw0",'
            '"status":["rerun","R",["RERUN",{"yellow":true}]],"unseen":true,"logs":[{"msg":"m"}],"shared":1,'
            '"values":{"0":["literal","(1,)"]}}'
        ),
    ),
    (
        records.Passed(
            id="t.py::x",
            when="setup",
            duration=0.1,
            start=1.0,
            stop=1.1,
            location=("t.py", 3, "x"),
            keywords=["x", "t.py"],
        ),
        (
            '{"t":"passed","id":"t.py::x","when":"setup","duration":0.1,"start":1.0,"stop":1.1,'
            '"location":["t.py",3,"x"],"keywords":["x","t.py"]}'
        ),
    ),
    (
        records.LogPiece(id="t.py::x", when="call", text="[{}]"),
        '{"t":"logs","id":"t.py::x","when":"call","text":"[{}]"}',
    ),
    (
        records.RaisedException(
            id="t.py", when=None, name="E", text="E: x", nodes=[NODE], items=[], found=[0]
        ),
        (
            '{"t":"exception","id":"t.py","when":null,"name":"E","text":"E: x",'
            '"nodes":[[-1,"Session","p","",".","Dir",null]],"items":[],"found":[0]}'
        ),
    ),
    (
        records.Compared(operator="==", operands=[("literal", "1"), ("text", "<X>")]),
        '{"t":"compared","operator":"==","operands":[["literal","1"],["text","<X>"]]}',
    ),
    (records.Several(of=[{"t": "started"}]), '{"t":"several","of":[{"t":"started"}]}'),
    (
        records.RecordedWarning(
            message="m",
            name="W",
            module="x",
            bases=["UserWarning"],
            file="/p/t.py",
            lineno=3,
            line="f()",
            when="runtest",
            id="t.py::x",
            location=None,
        ),
        (
            '{"t":"warning","message":"m","name":"W","module":"x","bases":["UserWarning"],"file":"/p/t.py","lineno":3,'
            '"line":"f()","when":"runtest","id":"t.py::x","location":null}'
        ),
    ),
    (
        records.TerminalCall(target="tw", method="sep", args=["-"], kwargs={"red": True}, unseen=True),
        '{"t":"terminal","target":"tw","method":"sep","args":["-"],"kwargs":{"red":true},"unseen":true}',
    ),
]


HOSTILE: list[object] = [7.5, "x" * 10, [["\n"]], {"\n": []}, True, -math.inf, 1 << 70, [7], [None] * 12]


def test_every_kind_is_here() -> None:
    assert {record.kind for record, _ in EACH} == records.KINDS.keys()


@pytest.mark.parametrize(("record", "text"), EACH, ids=[text[:40] for _, text in EACH])
def test_a_record_survives_the_way_there_and_back(record: Record, text: str) -> None:
    assert json.dumps(record.dump(), separators=(",", ":")) == text
    again = records.parse(json.loads(text))
    assert type(again) is type(record)
    assert again == record
    assert json.dumps(again.dump(), separators=(",", ":")) == text


@pytest.mark.parametrize(("record", "text"), EACH, ids=[text[:40] for _, text in EACH])
def test_a_record_of_a_newer_writer_is_read(record: Record, text: str) -> None:
    assert records.parse({**json.loads(text), "sizes": [1, 2, 3], "newer": {"a": [1]}}) == record


@pytest.mark.parametrize(("record", "text"), EACH, ids=[text[:40] for _, text in EACH])
def test_hostile_values_are_refused_in_one_line(record: Record, text: str) -> None:
    raw = json.loads(text)
    for name in raw.keys() - {"t"}:
        for value in HOSTILE:
            try:
                parsed = type(record).parse({**raw, name: value})
            except RecordError as error:
                message = str(error)
                assert f"kind '{record.kind}' makes no sense: {name} must be " in message
                assert message.isprintable()
            else:  # nothing but what such a field may hold
                assert json.loads(json.dumps(parsed.dump()))[name] == value or value == [None] * 12
                assert value not in (-math.inf, 1 << 70)


@pytest.mark.parametrize(
    "raw", [{}, {"t": 1}, {"t": None}, {"t": ["started"]}, {"t": "newer"}, {"t": "Record"}]
)
def test_an_unknown_kind_is_no_record(raw: dict[str, object]) -> None:
    assert records.parse(raw) is None


def test_what_a_record_must_have_is_missed() -> None:
    with pytest.raises(
        RecordError, match=r"^a record of kind 'started' makes no sense: location is missing$"
    ):
        records.Started.parse({"id": "t.py::x"})
    with pytest.raises(RecordError, match=r"d must be a report with a node id$"):
        records.Report.parse({"d": {"nodeid": 7}})


@pytest.mark.parametrize("count", [-1, 1 << 40, 1.0, "1"])
def test_a_number_of_tests_is_bounded(count: object) -> None:
    for kind in (records.Collected, records.Deselected):
        with pytest.raises(RecordError, match=r"count must be a number of tests$"):
            kind.parse({"count": count})


def test_older_records_lack_what_came_later() -> None:
    session = records.Session.parse({"protocol": 1, "pytest": "7.0.0", "python": "3.8.0", "rootdir": "/p"})
    assert (session.xdist, session.measured, session.maxfail, session.plugins) == (False, False, 0, None)
    assert records.Deselected.parse({"count": 1}).found is None
    assert records.Passed.parse({"id": "x", "when": "call"}).duration is None
    assert records.Started.parse({"id": "x", "location": ["t.py", 1, "x"]}).at == 0
    assert records.Passed.since <= records.VERSION


def test_newer_writers_may_append_to_a_node_or_an_item() -> None:
    tree = records.Tree.parse({"nodes": [[*NODE, "newer"]], "items": [[*MARKED, "newer"]]})
    assert (tree.nodes, tree.items) == ([NODE], [MARKED])
    report = records.CollectReport.parse({"d": DATA, "items": [[*FOUND, "newer"]]})
    assert report.items == [FOUND]


@pytest.mark.parametrize("line", ["3", 3.5, [3], 1 << 70, True])
def test_a_line_that_is_none_is_no_line(line: object) -> None:
    assert records.Finished.parse({"id": "x", "location": ["t.py", line, "x"]}).location[1] is None


def test_parts_are_the_objects_that_were_written_together() -> None:
    one: dict[str, object] = {"t": "started", "id": "x"}
    assert records.parts_of(one) == [one]
    assert records.parts_of({"t": "several", "of": [one, 3, None, [one]]}) == [one]
    assert records.parts_of({"t": "several", "of": "text"}) == [{"t": "several", "of": "text"}]
    assert records.parts_of({"t": "note", "of": [one]}) == [{"t": "note", "of": [one]}]


def test_the_documentation_has_every_kind_with_its_fields() -> None:
    page = (ROOT / "docs" / "reference" / "wire.md").read_text(encoding="utf-8").partition("### Records")[2]
    for kind, record in records.KINDS.items():
        if record.event_type:
            assert f"`{kind}`" in page, kind
            for name in inspect.get_annotations(record):
                assert f"`{name}`" in page, (kind, name)


def test_the_oldest_python_reads_and_writes_records() -> None:
    found = sorted((Path.home() / ".pyenv" / "versions").glob("3.8.*/bin/python"))
    python = str(found[-1]) if found else shutil.which("python3.8")
    if python is None:
        pytest.skip("there is no Python 3.8 here")
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import records\n"
        "for text in sys.stdin:\n"
        "    print(json.dumps(records.parse(json.loads(text)).dump(), separators=(',', ':')))\n"
    )
    lines = "".join(f"{text}\n" for _, text in EACH)
    command = [python, "-I", "-S", "-B", "-c", code, str(ROOT / "pytest_remote_ci" / "wire")]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (lines, "")


def test_a_session_without_a_limit_of_failures_is_read() -> None:
    """The newest pytest has no default for ``--maxfail``."""
    raw = {"t": "session", "protocol": 2, "pytest": "9.2", "python": "3.12", "rootdir": "/p", "maxfail": None}
    record = records.parse(raw)
    assert isinstance(record, records.Session)
    assert record.maxfail is None
    assert records.Session.parse({**raw, "maxfail": 3}).maxfail == 3
