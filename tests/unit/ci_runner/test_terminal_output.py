"""What the runner's own commands and its log write: names of users, jobs and files in them steer no terminal."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Literal

import pytest

from ci_runner import cli, doctor, logs
from ci_runner.admin.console import Console
from ci_runner.doctor import Finding
from ci_runner.model.job import APIKey, User, utcnow
from ci_runner.settings.groups import LogSettings
from ci_runner.store import Store
from pytest_remote_ci.wire.control_characters import holds_any

EVIL = "\x1b]52;c;eA==\x07\x9b2J\x7f\u202e\u2066\u200f\u061c\r\n\x85\u2028x"


def bad(text: str) -> set[str]:
    return {char for char in text if holds_any(char) and char not in "\n\t"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Of a runner whose database somebody has written names into that the commands refuse."""
    store = Store.open(tmp_path / "runner.db")
    now = utcnow()
    store.users.create(User("u1", f"name{EVIL}", f"mail{EVIL}@x.org", now, True, "normal"))
    store.keys.create(APIKey("k1", "u1", "0" * 64, f"key{EVIL}", now))
    store.close()
    return tmp_path


@pytest.mark.parametrize(
    "line",
    [
        "user list",
        "user list --json",
        "user get u1",
        "user get u1 --json",
        "key list",
        "key list --json",
        "user deactivate u1",
        "user set-priority-cap u1 low",
        "key revoke k1",
        "user delete u1 --yes",
        "key create --user-id u1 --name new",
        f"user get {EVIL}",
        f"key list --email {EVIL}",
    ],
)
def test_names_in_the_database_are_printed_harmlessly(
    data_dir: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    cli.main(["admin", "--data-dir", str(data_dir), *line.split(" ")])
    out, err = capsys.readouterr()
    assert (out + err).strip()
    assert not bad(out + err)
    if "--json" not in line and EVIL not in line:
        assert out.count("\n") < 20


def test_a_table_has_one_line_for_each_row() -> None:
    out = io.StringIO()
    Console(out, io.StringIO(), io.StringIO()).table(("ID", "NAME"), [("1", f"a{EVIL}b"), ("2", "c")])
    lines = out.getvalue().splitlines()
    assert [line[:1] for line in lines] == ["", "I", "-", "1", "2", ""]
    assert not bad(out.getvalue())


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_doctor_finds_is_printed_harmlessly(as_json: bool) -> None:
    out = io.StringIO()
    doctor.show([Finding("image", "fail", f"text{EVIL}", f"advice{EVIL}")], out, as_json=as_json)
    assert not bad(out.getvalue())
    if as_json:
        assert json.loads(out.getvalue())["findings"][0]["text"] == f"text{EVIL}"


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_steers_no_terminal(form: Literal["text", "json"]) -> None:
    out = io.StringIO()
    before = logging.getLogger().handlers[:]
    handler = logs.configure(LogSettings(format=form), out)
    try:
        try:
            raise ValueError(f"why{EVIL}")
        except ValueError:
            logging.getLogger("ci_runner.test").exception("job %s", f"name{EVIL}", extra={"path": f"p{EVIL}"})
    finally:
        logging.getLogger().removeHandler(handler)
        logging.captureWarnings(capture=False)
        for kept in before:
            if kept not in logging.getLogger().handlers:
                logging.getLogger().addHandler(kept)
    text = out.getvalue()
    assert "name" in text
    assert not bad(text)
    first = text.splitlines()[0]
    if form == "json":
        assert json.loads(text)["message"] == f"job name{EVIL}"
    else:
        assert "path=" in first, "a value makes no second line"


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"file{EVIL}"
    file.write_text("")
    assert cli.main(["admin", "--data-dir", str(file), "user", "list"]) != 0
    err = capsys.readouterr().err
    assert "file" in err
    assert not bad(err)
