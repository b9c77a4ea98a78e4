"""What reaches the developer's terminal: colours and text, in whatever pieces it arrives."""

from __future__ import annotations

import io
import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_remote_ci.errors import NoVerdict
from pytest_remote_ci.terminal import output
from pytest_remote_ci.terminal.ansi import ColourFilter, Output
from pytest_remote_ci.terminal.display import Display, exit_code, local_color
from pytest_remote_ci.terminal.status_line import Bar, StatusLine
from pytest_remote_ci.wire.events import Event


def filtered(*pieces: str, for_files: bool = False) -> str:
    colours = ColourFilter(for_files=for_files)
    return "".join(colours.feed(piece) for piece in pieces) + colours.flush()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain\ttext\n", "plain\ttext\n", id="text"),
        pytest.param("\x1b[1;31mred\x1b[0m\x1b[m", "\x1b[1;31mred\x1b[0m\x1b[m", id="colours"),
        pytest.param("\x1b[38:2:1:2:3mx", "\x1b[38:2:1:2:3mx", id="colours with colons"),
        pytest.param("a\x1b[2Jb\x1b[Hc\x1b[?25ld", "abcd", id="screen control"),
        pytest.param("\x1b[>4;1mx\x1b[1 qy", "xy", id="look-alikes of colours"),
        pytest.param("a\x1b]0;title\x07b", "ab", id="titles"),
        pytest.param("a\x1b]52;c;aGk=\x1b\\b", "ab", id="the clipboard"),
        pytest.param("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", id="links"),
        pytest.param("a\x9b31mb\x9d0;t\x9cc", "abc", id="eight-bit forms"),
        pytest.param("a\x1bPq#0\x1b\\b\x1b_x\x1b\\c", "abc", id="device control"),
        pytest.param("a\x1b(0b\x1bcc", "abc", id="character sets and resets"),
        pytest.param(
            "a\x1b]0;never closed\nb", "a\nb", id="a string that is not closed hides one line at most"
        ),
        pytest.param("ok\rno\r\nend", "ok\nno\nend", id="carriage returns do not overwrite"),
        pytest.param("a\bb\x07c\x00d\x7fe\x0bf", "abcdef", id="other controls"),
        pytest.param("a\u202eb\u2066c", "abc", id="reversed text"),
        pytest.param("a\u200eb\u200fc\u061cd\u2028e", "abcde", id="marks and separators"),
        pytest.param("a\x1b[31\nb", "a\nb", id="a sequence that breaks off"),
        pytest.param(
            "a\x1b[" + "1" * 300 + "m", "a" + "1" * 172 + "m", id="a sequence that is too long is text"
        ),
        pytest.param("a\x1b", "a", id="an escape at the end"),
        pytest.param("a\r", "a\n", id="a carriage return at the end"),
        pytest.param("ünï🎉", "ünï🎉", id="all languages"),
    ],
)
def test_only_text_and_colours_pass(text: str, shown: str) -> None:
    assert filtered(text) == shown


_HOSTILE = st.text(alphabet=st.sampled_from("\x1b\x9b\x9d\x9c\x07\r\n[]()0;:?mHJPX\\ a\u202e!~"), max_size=60)


@settings(max_examples=500, deadline=None)
@given(_HOSTILE, st.lists(st.integers(0, 60), max_size=6))
def test_the_result_does_not_depend_on_where_the_text_was_cut(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert filtered(*pieces) == filtered(text)


@settings(max_examples=500, deadline=None)
@given(_HOSTILE)
def test_nothing_but_colours_survives(text: str) -> None:
    rest = re.sub(r"\x1b\[[0-9;:]*m", "", filtered(text))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]", rest)


@settings(max_examples=500, deadline=None)
@given(_HOSTILE, st.data())
def test_files_get_all_characters_but_no_sequence(text: str, data: st.DataObject) -> None:
    shown = filtered(text, for_files=True)
    assert not re.search("[\x1b\x80-\x9f]", re.sub(r"\x1b\[[0-9;:]*m", "", shown))
    cut = data.draw(st.integers(0, len(text)))
    assert filtered(text[:cut], text[cut:], for_files=True) == shown
    plain = re.sub("[\x1b\x80-\x9f]", "", text)
    assert filtered(plain, for_files=True) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_the_text_as_it_came_without_what_steers_a_terminal() -> None:
    stream = io.StringIO()
    output = Output(stream)
    output.write("\x1b[31m\x1b[2Ja\rb\x00\x1b]52;c;eA==")
    output.write("\x07c\n")
    output.close()
    assert stream.getvalue() == "\x1b[31ma\rb\x00c\n"


def test_a_command_writes_into_a_pipe_what_a_terminal_would_get() -> None:
    stream = io.StringIO()
    output = Output(stream, is_strict=True)
    output.write("\x1b[31m\x1b[2Ja\rb\x00\u202ec\n")
    output.close()
    assert stream.getvalue() == "\x1b[31ma\nbc\n"


def test_text_that_the_stream_cannot_encode_is_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Output(stream).write("✓ done\n")
    assert raw.getvalue() == b"? done\n"


def shown(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> tuple[str, str]:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    display = Display(StatusLine())
    for event in events:
        display.show(Event(event))
    return out.getvalue(), err.getvalue()


def log(text: str, stream: str) -> dict[str, Any]:
    return {"type": "log", "data": text, "stream": stream}


INSTALLATION: list[dict[str, Any]] = [
    {"type": "state", "phase": "queued", "queue_position": 3},
    {"type": "state", "phase": "queued", "queue_position": 3},
    {"type": "state", "phase": "preparing", "detail": "downloading numpy"},
    log("Resolved 3 packages\nInstalled numpy\n", "runner"),
]
TESTING: list[dict[str, Any]] = [
    {"type": "state", "phase": "testing"},
    log("1 passed", "terminal"),
    log("oh\n", "stderr"),
]


def test_the_streams_of_the_tests_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = shown(
        [*TESTING, log("!", "stdout"), {"type": "log", "data": "old"}], monkeypatch, terminal=False
    )
    assert out == "1 passed!old"
    assert err == "oh\n"


def test_waiting_is_told_once_per_fact_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = shown(INSTALLATION, monkeypatch, terminal=False)
    assert out == ""
    assert err.splitlines() == [
        "remote-ci: queued, position 3",
        "remote-ci: preparing the environment: downloading numpy",
        "Resolved 3 packages",
        "Installed numpy",
    ]


def test_waiting_is_one_line_that_disappears_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    end = {"type": "complete", "status": "completed", "success": True}
    out, err = shown([*INSTALLATION, *TESTING, end], monkeypatch, terminal=True)
    assert "queued, position 3" in err
    assert "\n" not in err.partition("oh")[0].replace("\r\x1b[K", ""), "nothing of it stays"
    assert err.partition("oh")[0].endswith("\r\x1b[K")
    assert out == "1 passed"


def test_a_failed_installation_is_shown_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    end = {"type": "complete", "status": "failed", "success": False, "reason": "no numpy"}
    _, err = shown([*INSTALLATION, end], monkeypatch, terminal=True)
    assert err.endswith("Resolved 3 packages\nInstalled numpy\n")


def test_unknown_events_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown([{"type": "news", "data": "x"}, {}], monkeypatch, terminal=True) == ("", "")


def test_a_progress_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, has_bar in ((Terminal(), True), (io.StringIO(), False)):
        bar = Bar(StatusLine(stream, clock=lambda: 0.0), "uploading")
        for done in range(0, 2_000_001, 100_000):
            bar(done, 2_000_000)
        assert ("uploading ████████████████████████ 100%  1.9 MiB of 1.9 MiB" in stream.getvalue()) is has_bar
        assert stream.getvalue().count("uploading") == (2 if has_bar else 0), (
            "drawn at most ten times a second"
        )


@pytest.mark.parametrize(
    ("complete", "code"),
    [
        *[
            ({"status": "completed", "success": code == 0, "exit_code": code}, code)
            for code in (0, 1, 2, 3, 4, 5, 42)
        ],
        ({"success": True}, 0),
        ({"success": False}, 1),
        ({"status": "completed", "success": False, "exit_code": None}, 1),
    ],
)
def test_the_exit_code_is_pytests_own(complete: dict[str, Any], code: int) -> None:
    assert exit_code(Event(complete)) == code


@pytest.mark.parametrize(
    ("complete", "words"),
    [
        ({"status": "failed", "reason": "container lost"}, "could give no verdict: container lost"),
        ({"status": "failed", "success": False, "reason": "timed out after 60 s"}, "timed out"),
        (
            {"status": "failed", "reason": "timed out after 60 min of testing while running t.py::a"},
            r"while running t.py::a \(setting: `timeout`, at most `test-timeout` of the runner\)$",
        ),
        (
            {"status": "failed", "reason": "timed out after 15 min of preparing"},
            r"preparing \(setting: `prepare-timeout` of the runner\)$",
        ),
        (
            {"status": "failed", "reason": "disk limit of 4 GiB exceeded"},
            r"exceeded \(setting: `disk` of the runner\)$",
        ),
        (
            {"status": "cancelled", "cancelled": True, "reason": "cancelled by ops"},
            "the job was cancelled by ops",
        ),
    ],
)
def test_without_a_verdict_there_is_a_reason_and_a_code_of_its_own(
    complete: dict[str, Any], words: str
) -> None:
    with pytest.raises(NoVerdict, match=words) as caught:
        exit_code(Event(complete))
    assert caught.value.exit_code == 70


@pytest.mark.parametrize(
    ("choice", "environ", "terminal", "color"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("yes", {"NO_COLOR": "1"}, False, True),
        ("no", {"FORCE_COLOR": "1"}, True, False),
        ("auto", {"PY_COLORS": "1", "NO_COLOR": "1"}, False, True),
        ("auto", {"PY_COLORS": "0", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"TERM": "dumb"}, True, False),
    ],
)
def test_colours_are_decided_as_the_local_pytest_would(
    choice: str, environ: dict[str, str], terminal: bool, color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_color(choice, environ, terminal) is color
    from _pytest._io.terminalwriter import should_do_markup

    for name in ("PY_COLORS", "NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    if choice == "auto" and pytest.version_tuple >= (8,):  # before, an empty NO_COLOR counted
        assert should_do_markup(Terminal() if terminal else io.StringIO()) is color


def test_a_line_of_a_command_clears_the_upload_bar_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pytest_remote_ci.terminal.status_line.is_terminal", lambda stream: True)
    line = StatusLine()
    Bar(line, "uploading")(1, 2)
    output.print_message("GET /jobs: 200")
    output.print_message("another")
    err = capsys.readouterr().err
    bar, rest = err.rsplit("\r\x1b[K", 1)
    assert "uploading" in bar
    assert rest == "GET /jobs: 200\nanother\n"


def test_a_status_line_never_continues_or_erases_a_line_of_somebody_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pytest_remote_ci.terminal.status_line.is_terminal", lambda stream: True)
    line = StatusLine()
    ended: list[str] = []
    line.end_other_line = lambda: ended.append(capsys.readouterr().err)
    line.show("downloading")
    line.show("downloading more")
    line.print_message("fetched: report.xml")
    assert len(ended) == 2, "before the first redraw, and before a line"
    assert "fetched" not in ended[1]
    assert capsys.readouterr().err == "fetched: report.xml\n"
