"""Records of a session on their way from the spool to events: exact order, and nothing believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller.spool import reader, records
from ci_runner.controller.spool.reader import Spool
from ci_runner.model.job import JobEvent, ParsedFields, utcnow
from ci_runner.store import SpoolPosition


class Session:
    """What a recorder and a worker write, and a controller reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = Spool(folder)
        self.position = SpoolPosition()

    def write(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("ab") as file:
            file.write(data)

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def record(self, kind: str, **fields: Any) -> None:
        sizes = [self.size(name) for name in ("terminal", "stdout", "stderr")]
        self.write("records", json.dumps({"t": kind, "sizes": sizes, **fields}).encode() + b"\n")

    def frame(self, kind: str, **fields: Any) -> None:
        sizes = {name: self.size(name) for name in ("records", "terminal", "stdout", "stderr")}
        self.write("frames", json.dumps({"t": kind, **sizes, **fields}).encode() + b"\n")

    def read(self, *, over: bool = False) -> list[JobEvent]:
        events: list[JobEvent] = []
        for _ in range(1000):
            reading = reader.read(self.spool, self.position, now=utcnow(), over=over)
            self.position = reading.position
            events += reading.events
            if not reading.more:
                return events
        raise AssertionError("never at its end")


@pytest.fixture
def session(tmp_path: Path) -> Any:
    made = Session(tmp_path)
    yield made
    made.spool.close()


def said(events: list[JobEvent]) -> list[str]:
    return [event.data or str(event.fields["t"]) for event in events]


def test_records_and_output_come_in_the_order_in_which_they_were_written(session: Session) -> None:
    session.record("recorder", protocol=1)
    session.write("terminal", b"header\n")
    session.record("started", id="a")
    session.write("stdout", b"printed\n")
    session.record("finished", id="a")
    session.write("terminal", b"end\n")
    assert said(session.read(over=True)) == [
        "recorder",
        "started",
        "header\n",
        "printed\n",
        "finished",
        "end\n",
    ]


def test_records_are_read_without_waiting_for_a_frame(session: Session) -> None:
    session.record("started", id="a")
    assert said(session.read()) == ["started"]
    assert session.read() == []


def test_streams_are_told_apart_once_there_are_records(session: Session) -> None:
    session.record("recorder")
    session.write("terminal", b"t")
    session.write("stdout", b"o")
    session.write("stderr", b"e")
    streams = [event.fields.get("stream") for event in session.read(over=True)]
    assert streams == [None, "terminal", "stdout", "stderr"]


def test_without_records_standard_output_is_the_terminal(session: Session) -> None:
    session.write("stdout", b"o")
    assert [event.fields["stream"] for event in session.read(over=True)] == ["terminal"]


def test_an_unfinished_record_waits_and_is_dropped_at_the_end(session: Session) -> None:
    session.record("started", id="a")
    session.write("records", b'{"t": "fini')
    assert said(session.read()) == ["started"]
    session.write("records", b'shed", "id": "a"}\n{"t": "torn')
    assert said(session.read()) == ["finished"]
    assert session.read(over=True) == []
    assert session.position.records == session.size("records")


def test_a_frame_brings_the_records_that_precede_its_output(session: Session) -> None:
    session.record("started", id="a")
    session.write("stdout", b"one\n")
    session.frame("mark")
    session.write("stdout", b"two\n")
    session.record("finished", id="a")
    assert said(session.read(over=True)) == ["started", "one\n", "two\n", "finished"]


HOSTILE = [
    b"",
    b"no JSON",
    b"[]",
    b"1",
    b'{"t": 1}',
    b'{"t": "complete", "success": true}',
    b'{"t": "log", "data": "x"}',
    b'{"t": "started", "id": ' + b"[" * 500 + b"]" * 500 + b"}",
    b"[" * 100_000,
    b'{"t": "started", "n": ' + b"9" * 9999 + b"}",
    b"\xff\xfe",
    b'{"sizes": [1, 2, 3]}',
]


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: line[:20].decode("latin-1"))
def test_what_is_no_record_makes_no_event(line: bytes) -> None:
    assert records.parse(line, utcnow()).event is None


def test_a_record_cannot_pretend_to_be_another_event() -> None:
    line = b'{"t": "started", "type": "complete", "success": true, "seq": 9, "data": "x", "id": "a"}'
    event = records.parse(line, utcnow()).event
    assert event is not None
    assert (event.type, event.success, event.data, event.seq) == ("started", None, None, 0)
    assert dict(event.fields) == {"t": "started", "id": "a"}


@pytest.mark.parametrize("sizes", [None, [1], ["a", 1, 2], [1, 2, True], {"a": 1}, [-5, 10**30, 3]])
def test_sizes_that_make_no_sense_change_nothing(session: Session, sizes: Any) -> None:
    session.write("stdout", b"out")
    session.write("records", json.dumps({"t": "started", "sizes": sizes}).encode() + b"\n")
    assert sorted(said(session.read(over=True))) == ["out", "started"]


def test_a_line_longer_than_a_record_is_passed_over(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 200)
    session.write("records", b'{"t": "started", "id": "' + b"x" * 1000 + b'"}\n')
    session.record("finished", id="a")
    assert said(session.read(over=True)) == ["finished"]


def test_no_more_is_kept_than_the_limit_and_that_is_said_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "KEPT_BYTES", 500)
    for _ in range(100):
        session.record("started", id="a")
    found = said(session.read(over=True))
    assert found[-1] == "truncated"
    assert found.count("truncated") == 1
    assert found.count("started") < 20


def test_a_record_is_stored_as_it_was_written() -> None:
    line = b'{"t":"report","d":{"a":[1,2.50,"\\ud800"]},"sizes":[1,2,3]}'
    record = records.parse(line, utcnow())
    assert record.event is not None
    fields = record.event.fields
    assert isinstance(fields, ParsedFields)
    assert fields.text == '{"t":"report","d":{"a":[1,2.50,"\\ud800"]}}'
    assert json.loads(fields.text) == fields
    assert record.sizes == {"terminal": 1, "stdout": 2, "stderr": 3}


@pytest.mark.parametrize(
    "line",
    [
        b'{"t":"report","sizes":[1,2,3],"d":1}',
        b'{"t":"report","d":NaN,"sizes":[1,2,3]}',
        b'{"t":"report","d":-Infinity,"sizes":[1,2,3]}',
        b'{"t":"report","seq":9,"sizes":[1,2,3]}',
        b'{"t":"report","s\\u0065q":9,"sizes":[1,2,3]}',
        b'{"t":"report",\r"d":1,"sizes":[1,2,3]}',
        '{"t":"report","d":"\u00e9","sizes":[1,2,3]}'.encode(),
        b'{"t":"report","d":1,"sizes":[1,2]}',
        b'{"t":"report","d":1,"sizes":[1,2,3] }',
        b'{"t":"report","sizes":[0,0,0],"d":{"a":1,"sizes":[1,2,3]}}',
    ],
)
def test_what_is_written_in_another_way_is_written_anew(line: bytes) -> None:
    event = records.parse(line, utcnow()).event
    assert event is not None
    assert isinstance(event.fields, ParsedFields)
    assert not event.fields.text
    assert not {"seq", "sizes"} & event.fields.keys()
