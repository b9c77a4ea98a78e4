"""The end of the interpreter inside a job: short where nobody can tell, and as ever where somebody could."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_remote_ci.job import boot

JOB = Path(boot.__file__).parent

HEAD = """
import atexit, gc, os, sys
sys.path.insert(0, sys.argv[1])
import ending
gc.disable()  # nothing is collected before the end
class Ring:
    def __init__(self, thing):
        self.thing, self.me = thing, self
"""
TAIL = "ending.shorten()\nprint(gc.get_freeze_count() > 0, flush=True)\ngc.enable()\n"

QUIET = {
    "nothing": "ring = Ring(1)",
    "a closed file": "ring = Ring(open('f', 'w')); ring.thing.close()",
    "files in memory": "import io; ring = Ring([io.StringIO('a'), io.BytesIO(b'a')])",
    "a generator that is over": "ring = Ring(iter_ := (n for n in [1])); list(iter_)",
    "what is not asked": "ring = type('Odd', (type,), {'__getattr__': lambda *_: 1 / 0})('Ring', (), {})()",
}
LOUD = {
    "a finalizer": (
        "class Last:\n    def __del__(self, write=os.write, fd=os.open('said', os.O_CREAT | os.O_WRONLY)):\n"
        "        write(fd, b'said')\nring = Ring(Last()); ring.thing.ring = ring"
    ),
    "a generator in the middle": (
        "def some(write=os.write, fd=os.open('said', os.O_CREAT | os.O_WRONLY)):\n    try:\n        yield 1\n"
        "    finally:\n        write(fd, b'said')\nring = Ring(some()); next(ring.thing)"
    ),
}


def ended(code: str, folder: Path) -> str:
    """Standard output of a process that runs this and ends."""
    command = [sys.executable, "-c", f"{HEAD}{code}\ndel ring\n{TAIL}", str(JOB)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("code", QUIET.values(), ids=QUIET)
def test_what_nobody_can_tell_is_left_to_the_kernel(code: str, tmp_path: Path) -> None:
    assert ended(code, tmp_path) == "True\n"


@pytest.mark.parametrize("code", LOUD.values(), ids=LOUD)
def test_whatever_is_still_to_be_done_is_done(code: str, tmp_path: Path) -> None:
    assert ended(code, tmp_path) == "False\n"
    assert (tmp_path / "said").read_text() == "said"


def test_open_files_are_left_to_python(tmp_path: Path) -> None:
    assert ended("ring = Ring(open('said', 'wb')); ring.thing.write(b'said')", tmp_path) == "False\n"


def test_handlers_and_threads_end_as_ever(tmp_path: Path) -> None:
    code = (
        "import threading, time\nring = None\natexit.register(print, 'handler')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"
    )
    assert ended(code, tmp_path) == "True\nthread\nhandler\n"


def test_a_class_that_breaks_the_question_leaves_all_as_it_was(tmp_path: Path) -> None:
    code = (
        "class Meta(type):\n    def mro(cls):\n        return super().mro()\n"
        "class Odd(metaclass=Meta):\n    def __del__(self):\n        print('deleted', flush=True)\n"
        "    @property\n    def closed(self):\n        raise ValueError\nring = Ring(Odd())"
    )
    assert sorted(ended(code, tmp_path).split()) == ["False", "deleted"]
