"""A job's script as a program of a POSIX shell, and a shell program that starts any command: run for real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ci_runner.controller.environments.builds import write_for
from ci_runner.pipelines.script import SHELL, launcher, program
from pytest_remote_ci import job


def run(*commands: str, cwd: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [SHELL, "-c", program(commands)], cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.defect(9)
@pytest.mark.parametrize(
    ("commands", "code", "out"),
    [
        (("echo a", "echo b"), 0, "$ echo a\na\n$ echo b\nb\n"),
        (("exit 3", "echo never"), 3, "$ exit 3\n"),
        (("false; echo never",), 1, "$ false; echo never\n"),
        (("x='a  b'", 'echo "$x"'), 0, "$ x='a  b'\n$ echo \"$x\"\na  b\n"),
        (("for i in 1 2; do\n  echo $i\ndone",), 0, "$ for i in 1 2; do\n>   echo $i\n> done\n1\n2\n"),
        (("false || echo saved",), 0, "$ false || echo saved\nsaved\n"),
        (("echo '%s \\n'",), 0, "$ echo '%s \\n'\n"),
        ((), 0, "Empty script\n"),
    ],
    ids=["in order", "an end", "-e", "one shell", "several lines", "or", "percent signs", "nothing"],
)
def test_commands_run_one_after_the_other(commands: tuple[str, ...], code: int, out: str) -> None:
    found = run(*commands)
    assert found[0] == code
    assert found[1].startswith(out)


def test_an_unclosed_quote_is_the_fault_of_its_command_alone() -> None:
    code, out = run("echo first", "echo 'open", "echo never")
    assert code != 0
    assert "first\n" in out
    assert "never\n" not in out.replace("$ echo never\n", "")


def test_the_launcher_sets_variables_folder_and_path(tmp_path: Path) -> None:
    odd = 'it\'s $HOME `x`\n"end"'
    argv = [SHELL, "-c", 'printf "%s|%s|%s" "$ODD" "$PWD" "$PATH"; exit 4']
    text = launcher(argv, cwd=str(tmp_path), env={"ODD": odd}, path=["/first", "/second"])
    done = subprocess.run([SHELL, "-c", text], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 4
    assert done.stdout.startswith(f"{odd}|{tmp_path}|/first:/second:")
    lost = launcher(argv, cwd=str(tmp_path / "nowhere"), env={}, path=[])
    assert subprocess.run([SHELL, "-c", lost], capture_output=True, timeout=30, check=False).returncode == 126


def test_a_program_and_its_secrets_are_gone_from_the_spool_once_it_runs(tmp_path: Path) -> None:
    """In an image without Python: `worker.sh` in place of `worker.py`."""
    argv = [
        SHELL,
        "-c",
        'ls "$SPOOL"; printf "%s|" "$TOKEN" "$ODD"; ls -l /proc/$$/fd | grep -c command; exit 3',
    ]
    env = {"TOKEN": "s3cr3t", "ODD": "\udcff", "SPOOL": str(tmp_path)}
    text = launcher(argv, cwd=str(tmp_path), env=env, path=[])
    write_for(tmp_path / "command", text, None)
    (tmp_path / "seal").write_text("x")
    worker = Path(job.__file__).with_name("worker.sh")
    done = subprocess.run([SHELL, str(worker), str(tmp_path)], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (3, b"")
    lines = (tmp_path / "stdout").read_bytes().split(b"\n")
    assert b"command" not in lines
    assert lines[-2] == b"s3cr3t|\xff|0"


def test_kept_folders_are_links_in_the_home(tmp_path: Path) -> None:
    home, kept = tmp_path / "a home", tmp_path / "kept"
    home.mkdir()
    (kept / "it's").mkdir(parents=True)
    (kept / "it's" / "x").write_text("kept")
    links = [(name, str(kept / name)) for name in ("it's", ".cache/tool")]
    argv = [SHELL, "-c", 'cat "$HOME/it\'s/x"; echo 1 >"$HOME/.cache/tool/y"']
    for _ in range(2):  # links that are there already do no harm
        text = launcher(argv, cwd=str(tmp_path), env={}, path=[], kept=links)
        env = {"HOME": str(home), "PATH": os.defpath}
        done = subprocess.run(
            [SHELL, "-c", text], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "kept", "")
    assert (kept / ".cache" / "tool" / "y").read_text() == "1\n"
    assert sorted(path.name for path in kept.rglob("*")) == [".cache", "it's", "tool", "x", "y"]
