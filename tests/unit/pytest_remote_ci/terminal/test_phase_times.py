"""What is shown of a session's time."""

from __future__ import annotations

import time

from pytest_remote_ci.terminal.phase_times import line, process_began, table
from pytest_remote_ci.wire.timing import Timing

WARM = Timing({"start": 0.25, "tests": 1.5})
COLD = Timing(WARM.phases, ("environment built in 14 s: requirements.txt changed", "with \x1b[31mcolour"))


def test_a_warm_session_has_a_line_only_when_it_is_verbose() -> None:
    assert line(WARM, is_verbose=False) is None
    assert line(WARM, is_verbose=True) == "1.8 s in all: start 0.25, tests 1.50"


def test_how_the_container_was_started_stands_beside_its_time() -> None:
    timing = Timing({"container": 0.25, "tests": 1.5}, container="warm")
    assert line(timing, is_verbose=True) == "1.8 s in all: container 0.25 (warm), tests 1.50"
    assert next(table(timing)).endswith(": warm")


def test_a_cold_session_always_says_why_without_control_characters() -> None:
    text = line(COLD, is_verbose=False)
    assert text is not None
    assert text.startswith("environment built in 14 s: requirements.txt changed; with ")
    assert "\x1b" not in text


def test_the_table_has_the_phases_their_sum_and_the_reasons() -> None:
    lines = list(table(COLD))
    assert [text.split()[0] for text in lines[:3]] == ["start", "tests", "all"]
    assert lines[2].split()[1:3] == ["1.750", "s"]
    assert lines[3] == COLD.cold[0]
    assert "\x1b" not in lines[4]


def test_the_start_of_this_process_is_in_the_past() -> None:
    began = process_began()
    assert began is None or began <= time.monotonic()
