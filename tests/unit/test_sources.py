"""Where classes begin, for who asks `inspect`, without importing the file that they are in."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

from pytest_remote_ci.replay.sources import stand_in

TEXT = '''"""A file that cannot be imported."""
import no_such_module


def decorated(cls): ...


class Plain:
    class Inner:
        x = 1


@decorated
@decorated
class Decorated(
    no_such_module.Base,
):
    """Words."""


def function():
    class Plain: ...
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "test_file.py"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize(("name", "line"), [("Plain", 8), ("Plain.Inner", 9), ("Decorated", 13)])
def test_a_class_begins_where_it_does_for_python(path: Path, name: str, line: int) -> None:
    found = stand_in(path, name, None)
    assert inspect.getsourcelines(found)[1] == line
    assert found.__name__ == name.rpartition(".")[2]
    assert inspect.getdoc(found) is None


def test_words_about_a_class_are_those_that_came(path: Path) -> None:
    assert inspect.getdoc(stand_in(path, "Plain", "from afar")) == "from afar"


@pytest.mark.parametrize("text", [None, "class Other: ...\n", "class (", "\0"])
def test_a_class_that_is_not_in_the_file_has_no_line(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "test_other.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises((OSError, TypeError)):
        inspect.getsourcelines(stand_in(file, "Plain", None))


def test_the_newest_python_finds_it_too(path: Path) -> None:
    assert vars(stand_in(path, "Decorated", None))["__firstlineno__"] == 13
    assert "__firstlineno__" not in vars(stand_in(path, "Missing", None))


def test_what_is_no_file_is_not_looked_into(tmp_path: Path) -> None:
    """A runner names the path: reading from a pipe would wait for ever."""
    os.mkfifo(tmp_path / "test_it.py")
    assert stand_in(tmp_path / "test_it.py", "Plain", None).__module__ == "remote-ci"
