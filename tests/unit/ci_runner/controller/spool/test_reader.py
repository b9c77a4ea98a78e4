"""The reader of spools: nothing lost, nothing twice, nothing in the wrong order, whatever the files contain."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci_runner.controller.spool import reader
from ci_runner.controller.spool.log_budget import within_budget
from ci_runner.controller.spool.masking import Masker
from ci_runner.controller.spool.reader import ExitFrame, Reading, Spool
from ci_runner.model.job import JobEvent, utcnow
from ci_runner.store import SpoolPosition
from pytest_remote_ci.wire.protocol import LOG_CHUNK_BYTES

START = SpoolPosition()


class Folder:
    """A spool folder with a reader on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = Spool(path)
        self.position = START

    def write(self, name: str, data: bytes) -> None:
        with (self.path / name).open("ab") as file:
            file.write(data)

    def frame(self, kind: str, **fields: Any) -> None:
        sizes = {
            n: (self.path / n).stat().st_size if (self.path / n).exists() else 0 for n in ("stdout", "stderr")
        }
        self.write("frames", json.dumps({"t": kind, "at": 1.0, **sizes, **fields}).encode() + b"\n")

    def read(self, **options: Any) -> Reading:
        reading = reader.read(self.spool, self.position, now=utcnow(), **options)
        self.position = reading.position
        return reading

    def drain(self, **options: Any) -> list[JobEvent]:
        """Everything, as a controller would take it."""
        events: list[JobEvent] = []
        for _ in range(10_000):
            reading = self.read(over=True, **options)
            events += reading.events
            if not reading.more:
                return events
        raise AssertionError("never at its end")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    found = Folder(tmp_path)
    yield found
    found.spool.close()


def said(events: Any) -> list[tuple[str, str]]:
    return [(event.fields["stream"], event.data or "") for event in events]


def test_an_empty_folder_says_nothing(folder: Folder) -> None:
    assert folder.read() == Reading((), START)
    assert folder.read(over=True) == Reading((), START)
    assert reader.final_frame(folder.spool, over=True) is None


def test_a_missing_folder_says_nothing(tmp_path: Path) -> None:
    assert reader.read(Spool(tmp_path / "none"), START, now=utcnow(), over=True) == Reading((), START)


def test_output_waits_for_the_frame_that_covers_it(folder: Folder) -> None:
    folder.write("stdout", b"one\n")
    reading = folder.read()
    assert (reading.events, reading.behind) == ((), True)
    folder.frame("mark")
    reading = folder.read()
    assert said(reading.events) == [("terminal", "one\n")]
    assert not reading.behind


def test_an_impatient_reader_takes_what_is_there(folder: Folder) -> None:
    folder.write("stdout", b"one")
    assert said(folder.read(impatient=True).events) == [("terminal", "one")]
    assert folder.read(impatient=True).events == ()


def test_output_and_frames_interleave_by_the_sizes_in_the_frames(folder: Folder) -> None:
    folder.write("stdout", b"1")
    folder.frame("mark")
    folder.write("stderr", b"2")
    folder.frame("mark")
    folder.write("stdout", b"3")
    folder.frame("exit", code=0)
    reading = folder.read()
    assert said(reading.events) == [("terminal", "1"), ("stderr", "2"), ("terminal", "3")]
    assert (reading.started, reading.exit) == (True, ExitFrame(0))


def test_a_started_frame_is_reported(folder: Folder) -> None:
    folder.frame("hello", worker="1", python="3.12")
    assert not folder.read().started
    folder.frame("started", pid=7)
    assert folder.read().started


def test_a_torn_frame_waits_for_its_rest(folder: Folder) -> None:
    folder.write("frames", b'{"t": "star')
    assert not folder.read().started
    folder.write("frames", b'ted"}\n')
    assert folder.read().started


def test_a_character_is_never_cut(folder: Folder) -> None:
    snowman = "\N{SNOWMAN}".encode()
    folder.write("stdout", b"a" + snowman[:2])
    folder.frame("mark")
    assert said(folder.read().events) == [("terminal", "a")]
    folder.write("stdout", snowman[2:] + b"b")
    folder.frame("mark")
    assert said(folder.read().events) == [("terminal", "\N{SNOWMAN}b")]


def test_a_character_that_never_ends_is_replaced_at_the_end(folder: Folder) -> None:
    folder.write("stdout", b"a\xe2\x98")
    folder.frame("exit", code=0)
    assert said(folder.drain()) == [("terminal", "a"), ("terminal", "\N{REPLACEMENT CHARACTER}")]
    assert folder.position.stdout == 3


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b"NaN",
        b"[" * 100_000,
        b'{"t": {"a": 1}, "stdout": "x", "stderr": null}',
        b'{"t": "mark", "stdout": -5, "stderr": 99999999999999999999}',
        b'{"t": "mark", "stdout": true, "stderr": 1.5}',
        b'{"t": "exit"}',
        b'{"t": "exit", "code": "0"}',
        b'{"t": "exit", "code": 256}',
        b'{"t": "exit", "code": null, "signal": "rm -rf"}',
        b"\xff\xfe\x00",
        b'{"t": "mark", "stdout": ' + b"9" * 10_000 + b"}",
    ],
    ids=[
        "empty line",
        "not json",
        "a list",
        "null",
        "a text",
        "not a number",
        "too deep",
        "wrong types",
        "absurd sizes",
        "sizes of other types",
        "exit without code",
        "exit code is text",
        "exit code out of range",
        "absurd signal",
        "not UTF-8",
        "a number too long",
    ],
)
def test_a_hostile_frame_is_passed_over(folder: Folder, line: bytes) -> None:
    folder.write("stdout", b"hello\n")
    folder.write("frames", line + b"\n")
    folder.frame("mark")
    reading = folder.read()
    assert said(reading.events) == [("terminal", "hello\n")]
    assert reading.exit is None
    assert folder.read().events == ()


def test_a_line_longer_than_any_frame_is_skipped(folder: Folder) -> None:
    folder.write("frames", b"x" * (3 * reader.MAX_FRAME_BYTES) + b"\n")
    folder.write("stdout", b"hello\n")
    folder.frame("exit", code=3)
    assert said(folder.drain()) == [("terminal", "hello\n")]
    assert reader.final_frame(folder.spool, over=True) == ExitFrame(3)


def test_a_flood_of_frames_is_taken_in_portions(folder: Folder) -> None:
    folder.write("frames", b"{}\n" * (2 * reader.MAX_FRAMES + 1))
    assert folder.read().more
    assert folder.position.frames == 3 * reader.MAX_FRAMES
    folder.read()
    assert not folder.read().more


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_only_regular_files_are_read(folder: Folder, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    target = tmp_path / "stdout"
    if kind == "link":
        target.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    folder.frame("mark", stdout=6)
    assert folder.drain() == []


def test_a_linked_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "stdout").write_bytes(b"secret")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert reader.read(Spool(tmp_path / "linked"), START, now=utcnow(), over=True).events == ()


def test_a_truncated_file_ends_the_output(folder: Folder) -> None:
    folder.write("stdout", b"hello\n")
    folder.frame("mark")
    folder.read()
    os.truncate(folder.path / "stdout", 0)
    folder.frame("mark", stdout=6)
    assert folder.drain() == []


def test_discarding_passes_over_output_but_sees_frames(folder: Folder) -> None:
    folder.write("stdout", b"x" * 5_000_000)
    folder.frame("exit", code=1)
    reading = folder.read(discard=True)
    assert (reading.events, reading.position.stdout, reading.exit) == ((), 5_000_000, ExitFrame(1))


def test_ten_megabytes_without_a_line_end_come_in_chunks(folder: Folder) -> None:
    data = b"z" * (10 << 20)
    folder.write("stdout", data)
    folder.frame("exit", code=0)
    events = folder.drain()
    assert "".join(event.data or "" for event in events) == data.decode()
    assert max(len(event.data or "") for event in events) <= LOG_CHUNK_BYTES


def test_long_output_is_cut_at_line_ends(folder: Folder) -> None:
    data = b"".join(b"%06d " % number + b"w" * 93 + b"\n" for number in range(30_000))
    folder.write("stdout", data)
    folder.frame("exit", code=0)
    events = folder.drain()
    assert "".join(event.data or "" for event in events).encode() == data
    assert all((event.data or "").endswith("\n") for event in events)


@given(st.binary(max_size=300), st.booleans())
def test_pieces_are_the_text_of_the_bytes(data: bytes, last: bool) -> None:
    found = list(reader.pieces(data, last=last))
    used = sum(length for _, length in found)
    assert "".join(text for text, _ in found) == data[:used].decode("utf-8", "replace")
    assert len(data) - used <= (0 if last else 3)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8))
@settings(max_examples=60)
def test_any_split_into_writes_gives_the_same_text(parts: list[bytes]) -> None:
    whole = b"".join(parts).decode("utf-8", "replace")
    text, carried = "", b""
    for part in parts:
        carried += part
        for piece, used in reader.pieces(carried, last=False):
            text += piece
            carried = carried[used:]
    text += "".join(piece for piece, _ in reader.pieces(carried, last=True))
    assert text == whole


def test_invalid_bytes_never_make_a_chunk_too_long() -> None:
    found = list(reader.pieces(b"\xff" * 200_000, last=True))
    assert sum(used for _, used in found) == 200_000
    assert max(len(text.encode()) for text, _ in found) <= LOG_CHUNK_BYTES


@given(
    writes=st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=30), st.booleans()),
        max_size=12,
    ),
    dies=st.sets(st.integers(0, 12)),
)
@settings(max_examples=60, deadline=None)
def test_a_reader_that_dies_anywhere_neither_loses_nor_repeats(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bytes, bool]], dies: set[int]
) -> None:
    folder = Folder(tmp_path_factory.mktemp("spool"))
    try:
        stored: list[JobEvent] = []
        for number, (name, data, marked) in enumerate(writes):
            folder.write(name, data)
            if marked:
                folder.frame("mark")
            if number in dies:  # read, but died before it was stored
                reader.read(folder.spool, folder.position, now=utcnow())
                folder.spool.close()
            else:
                stored += folder.read().events
        folder.frame("exit", code=0)
        stored += folder.drain()
    finally:
        folder.spool.close()
    for name, stream in (("stdout", "terminal"), ("stderr", "stderr")):
        expected = b"".join(data for to, data, _ in writes if to == name).decode("utf-8", "replace")
        assert "".join(text for label, text in said(stored) if label == stream) == expected


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], None),
        ([{"t": "started"}], None),
        ([{"t": "exit", "code": 0}], ExitFrame(0)),
        ([{"t": "exit", "code": 0}, {"t": "mark"}], None),
        ([{"t": "exit", "code": None, "signal": "SIGKILL", "oom": 1}], ExitFrame(None, "SIGKILL", oom=True)),
        ([{"t": "exit", "code": 2, "stopped": True}], ExitFrame(2, stopped=True)),
    ],
    ids=["no frame", "no exit", "exit", "something after the exit", "signalled", "stopped"],
)
def test_the_last_word_counts_only_as_the_last(
    folder: Folder, frames: list[dict[str, Any]], expected: ExitFrame | None
) -> None:
    for frame in frames:
        folder.write("frames", json.dumps(frame).encode() + b"\n")
    assert reader.final_frame(folder.spool, over=True) == expected


def log(text: str) -> JobEvent:
    return JobEvent("log", text, fields={"stream": "terminal"})


@pytest.mark.parametrize(
    ("texts", "stored", "budget", "kept"),
    [
        (["aa", "bb"], 0, 100, ["aa", "bb"]),
        (["aa", "bb"], 0, 3, ["aa", "b", "\n[log truncated at 3 B]\n"]),
        (["aa"], 0, 2, ["aa", "\n[log truncated at 2 B]\n"]),
        (["aa", "bb"], 5, 5, []),
        (["\N{SNOWMAN}"], 0, 2, ["\n[log truncated at 2 B]\n"]),
    ],
    ids=["all fits", "the second is cut", "just full", "used up before", "no character is cut"],
)
def test_the_log_budget(texts: list[str], stored: int, budget: int, kept: list[str]) -> None:
    events, size = within_budget([log(text) for text in texts], stored, budget)
    assert [event.data for event in events] == kept
    assert size == sum(len(text.encode()) for text in kept)
    if stored + size >= budget:
        assert within_budget([log("more")], stored + size, budget) == ([], 0)


def test_other_events_pass_a_used_up_budget() -> None:
    event = replace(log("x"), type="state")
    assert within_budget([event], 10, 5) == ([event], 0)


# -- secrets
SECRETS = Masker(["s3cr3t-value", "first\nab\nlast-line"])


def shown_of(folder: Folder, **options: Any) -> list[tuple[str, str]]:
    return said(folder.read(masker=SECRETS, **options).events)


def test_a_value_that_a_frame_cuts_is_masked(folder: Folder) -> None:
    folder.write("stdout", b"it is s3cr3t")
    folder.frame("mark")
    folder.write("stderr", b"warning\n")
    folder.frame("mark")
    assert shown_of(folder) == [("terminal", "it is "), ("stderr", "warning\n")]
    folder.write("stdout", b"-value!\n")
    folder.frame("mark")
    assert shown_of(folder) == [("terminal", "***!\n")]
    assert folder.position.stdout == len("it is s3cr3t-value!\n")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_value_that_a_pause_cuts_is_masked_however_long_it_is(folder: Folder, stream: str) -> None:
    shown = []
    for byte in b"a s3cr3t-value, s3cr3t s3cr3t-value\n":
        folder.write(stream, bytes([byte]))
        folder.frame("mark")
        for options in ({}, {"impatient": True}, {"impatient": True}):
            shown += shown_of(folder, **options)
    assert "".join(text for _, text in shown) == "a ***, s3cr3t ***\n"


def test_what_is_withheld_is_not_behind_and_makes_nobody_impatient(folder: Folder) -> None:
    folder.write("stdout", b"dots ...s3")
    folder.frame("mark")
    reading = folder.read(masker=SECRETS)
    assert (said(reading.events), reading.behind, reading.more) == ([("terminal", "dots ...")], False, False)
    assert folder.position.stdout == 8
    again = folder.read(masker=SECRETS)
    assert (again.events, again.behind, again.position) == ((), False, reading.position)
    folder.write("stdout", b"x")
    assert folder.read(masker=SECRETS).behind


@pytest.mark.parametrize("end", ["exit", "again", "over"])
def test_what_is_withheld_comes_at_the_end_of_its_stream(folder: Folder, end: str) -> None:
    folder.write("stdout", b"the end is s3cr3t")
    folder.frame("mark")
    assert shown_of(folder) == [("terminal", "the end is ")]
    if end != "over":
        folder.frame(end, code=0)
    assert shown_of(folder, over=end == "over") == [("terminal", "s3cr3t")]
    assert not folder.read(masker=SECRETS).behind


def test_what_is_withheld_comes_before_the_next_record(folder: Folder) -> None:
    folder.write("stdout", b"half a s3cr3t")
    folder.frame("mark")
    assert shown_of(folder) == [("terminal", "half a ")]
    folder.write("records", b'{"t":"started","id":"test_a[s3cr3t-value]","sizes":[0,13,0]}\n')
    events = folder.read(masker=SECRETS).events
    assert [event.type for event in events] == ["log", "started"]
    assert events[0].data == "s3cr3t"
    assert events[1].fields["id"] == "test_a[***]"


def test_values_are_masked_where_long_output_is_cut(folder: Folder) -> None:
    line = b"x" * (LOG_CHUNK_BYTES - 6) + b"s3cr3t-value" + b"y" * (LOG_CHUNK_BYTES - 6) + b"s3cr3t-value"
    data = line * (3 * reader.READ_BYTES // len(line)) + b"\n"
    folder.write("stdout", data)
    folder.frame("mark")
    text = "".join(event.data or "" for event in folder.drain(masker=SECRETS))
    assert text.replace("*", "") == data.decode().replace("s3cr3t-value", "")
    assert text.count("***") >= data.count(b"s3cr3t-value")
    assert folder.position.stdout == len(data)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_however_output_arrives_no_value_is_shown_and_nothing_else_is_lost(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Folder(tmp_path_factory.mktemp("spool"))
    words = ["s3cr3t-value", "s3cr3t", "-value", "plain\n", "ü", "first\nab\n", "last-line", " "]
    shown = {"stdout": "", "stderr": ""}
    written = {"stdout": b"", "stderr": b""}
    for _ in range(data.draw(st.integers(1, 12))):
        stream = data.draw(st.sampled_from(["stdout", "stderr"]))
        piece = data.draw(st.sampled_from(words)).encode()
        piece = piece[: data.draw(st.integers(1, len(piece)))]
        folder.write(stream, piece)
        written[stream] += piece
        if data.draw(st.booleans()):
            folder.frame("mark")
        for event in folder.read(masker=SECRETS, impatient=data.draw(st.booleans())).events:
            shown["stderr" if event.fields["stream"] == "stderr" else "stdout"] += event.data or ""
    for event in folder.drain(masker=SECRETS):
        shown["stderr" if event.fields["stream"] == "stderr" else "stdout"] += event.data or ""
    folder.spool.close()
    for stream, text in shown.items():
        assert "s3cr3t-value" not in text
        whole = SECRETS.data(written[stream]).data.decode(errors="replace")
        # Two values side by side become one mask where they arrive at once.
        assert re.sub(r"(\*{3})+", "***", text) == re.sub(r"(\*{3})+", "***", whole)
