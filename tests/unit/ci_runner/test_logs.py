"""The runner's log: one line per fact, keys hidden, nothing forged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ci_runner.logs import configure
from ci_runner.settings.groups import LogSettings

KEY = "ci_" + "Ab1" * 15 + "x"


@pytest.fixture
def log() -> Iterator[Callable[..., io.StringIO]]:
    """Configure the process's log into a buffer, and put everything back afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def start(**settings: Any) -> io.StringIO:
        stream = io.StringIO()
        configure(LogSettings(**settings), stream)
        return stream

    yield start
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


def test_a_text_line_carries_time_level_logger_message_and_facts(log: Callable[..., io.StringIO]) -> None:
    stream = log()
    logging.getLogger("ci_runner.x").info("started %s", "well", extra={"job": "j1", "note": "two words"})
    line = stream.getvalue()
    assert line.endswith(' INFO    ci_runner.x: started well job=j1 note="two words"\n')
    assert line[10] == "T"
    assert line[23] == "Z"


def test_a_json_line_is_one_object_with_the_facts_and_the_exception(log: Callable[..., io.StringIO]) -> None:
    stream = log(format="json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("ci_runner.x").exception("failed", extra={"job": "j1"})
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["message"], entry["job"]) == ("ERROR", "failed", "j1")
    assert "ValueError: no" in entry["exception"]
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_api_keys_are_hidden_wherever_they_stand(log: Callable[..., io.StringIO], form: str) -> None:
    stream = log(format=form)
    logging.getLogger("ci_runner.x").warning("key %s", KEY, extra={"given": KEY})
    assert KEY not in stream.getvalue()
    assert stream.getvalue().count("ci_…") == 2


@pytest.mark.parametrize("given", [KEY[:20], f"{KEY}x", f"x{KEY}", f"{KEY[:12]}", KEY[:3] + "a_" + KEY])
def test_no_part_of_a_secret_is_left(log: Callable[..., io.StringIO], given: str) -> None:
    stream = log()
    logging.getLogger("ci_runner.x").warning("key %s", given)
    assert "ci_…" in stream.getvalue()
    assert KEY[9:12] not in stream.getvalue()


def test_the_id_of_a_key_is_shown(log: Callable[..., io.StringIO]) -> None:
    stream = log()
    logging.getLogger("ci_runner.x").warning("key %s of ci_runner", KEY[:11])
    assert f"key {KEY[:11]} of ci_runner" in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_feed_in_a_value_cannot_forge_a_line(log: Callable[..., io.StringIO], form: str) -> None:
    stream = log(format=form)
    logging.getLogger("ci_runner.x").warning("name %s", "a\nERROR forged\r\n", extra={"name_": "b\nc"})
    assert stream.getvalue().count("\n") == 1


def test_lines_below_the_level_are_not_written_and_sdks_are_quiet(log: Callable[..., io.StringIO]) -> None:
    stream = log(level="INFO")
    logging.getLogger("ci_runner.x").debug("hidden")
    logging.getLogger("urllib3.connectionpool").info("hidden")
    assert stream.getvalue() == ""


@pytest.mark.defect(13)
@pytest.mark.parametrize(("level", "shown"), [("DEBUG", "dwe"), ("WARNING", "we"), ("ERROR", "e")])
def test_the_level_decides_what_is_written(log: Callable[..., io.StringIO], level: str, shown: str) -> None:
    stream = log(level=level)
    logger = logging.getLogger("ci_runner.x")
    logger.debug("d:")
    logger.warning("w:")
    logger.error("e:")
    assert [letter for letter in "dwe" if f"{letter}:" in stream.getvalue()] == list(shown)


def test_configuring_again_replaces_the_handler(log: Callable[..., io.StringIO]) -> None:
    first, second = log(), log()
    logging.getLogger("ci_runner.x").info("once")
    assert (first.getvalue().count("once"), second.getvalue().count("once")) == (0, 1)
