"""One suite, run directly and run remotely as a native session, and what must be equal of the two."""

from __future__ import annotations

import difflib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from support.developer import FIXTURES, Developer, Done, run
from support.runner import Runner

_TIMES = (
    (r"\d+\.\d+s( \(\d:\d\d:\d\d\))?", "N.NNs"),
    (r"0x[0-9a-f]+", "0xX"),
    (r"[^\s'\"]*/lib/python3", "<ENV>/lib/python3"),
    (r"( -- )\S+/bin/python\S*", r"\1<ENV>/bin/python"),
    (r"(time|perf_count)=\d+\.\d+", r"\1=N"),
    (r"cache from \d+:\d+:\d+ ago", "cache from X ago"),
    (r"\d+(\.\d+)?(ms|us)\b", "N ms"),
    (r" +N ms", " N ms"),
    (r" +(\r?)\n", "\n"),
)


def normalised(text: str, *roots: Path) -> str:
    """Without times, addresses and the two roots."""
    for root in roots:
        text = text.replace(str(root), "<ROOT>")
    for pattern, words in _TIMES:
        text = re.sub(pattern, words, text)
    # How many there are around the last line depends on the digits of the time in it.
    return re.sub(r".* in N\.NNs.*", lambda line: re.sub("=+", "=", line[0]), text)


@dataclass(frozen=True)
class Pair:
    """A suite in two places: where pytest runs, and where only its results are shown."""

    direct: Path
    local: Path
    #: pytest of the environment that the jobs get.
    python: Path
    developer: Developer

    def directly(self, *args: str, sub: str = ".") -> Done:
        """Run over there's pytest here."""
        env = {name: value for name, value in self.developer.environ().items() if "REMOTE_CI" not in name}
        return run(
            [str(self.python), "-m", "pytest", *args], cwd=self.direct / sub, env=env | {"COLUMNS": "100"}
        )

    def remotely(self, *args: str, sub: str = ".") -> Done:
        """Run it as a native session."""
        return self.developer.pytest(*args, cwd=self.local / sub, COLUMNS="100")

    def run(self, *args: str, sub: str = ".") -> tuple[Done, Done]:
        """Run it directly and remotely, at once."""
        with ThreadPoolExecutor(1) as aside:
            direct = aside.submit(self.directly, *args, sub=sub)
            remote = self.remotely(*args, sub=sub)
            return direct.result(), remote

    def compare(self, *args: str, sub: str = ".") -> str:
        """The same; the difference."""
        return self.difference(*self.run(*args, sub=sub))

    def difference(self, direct: Done, remote: Done) -> str:
        """ "" when they are equal, else a diff for people."""
        return difference(direct, remote, self.direct, self.local)


def difference(direct: Done, remote: Done, direct_root: Path, local_root: Path) -> str:
    """ "" when a direct and a remote run are equal, else a diff for people."""
    lines = (
        [] if direct.code == remote.code else [f"exit code {direct.code} directly, {remote.code} remotely"]
    )
    for name, one, other in (
        ("stdout", direct.out, remote.out),
        ("stderr", _without_own_lines(direct.err), _without_own_lines(remote.err)),
    ):
        lines += difflib.unified_diff(
            normalised(one, direct_root).splitlines(),
            normalised(other, local_root).splitlines(),
            f"{name} directly",
            f"{name} remotely",
            lineterm="",
            n=1,
        )
    return "\n".join(lines)


def make_pair(name: str, folder: Path, developer: Developer, python: Path) -> Pair:
    """Two fresh copies of a suite of `tests/fixtures/parity`."""
    places = [folder / "direct" / name, folder / "remote" / name]  # equally long: lines are filled up
    for place in places:
        shutil.copytree(FIXTURES / "parity" / name, place)
    return Pair(places[0], places[1], python, developer)


def job_python(runner: Runner, developer: Developer, folder: Path) -> Path:
    """The interpreter of the environment that a project without dependencies gets."""
    project = folder / "empty"
    project.mkdir()
    (project / "test_where.py").write_text(
        "import sys\ndef test_where():\n    print(sys.prefix)\n    assert 0\n"
    )
    done = developer.pytest("-q", "-rA", cwd=project)
    assert done.code == 1, done.text
    envs = (runner.data_dir / "environments").glob("*/envs/*/bin/python")
    [found] = [path for path in envs if str(path.parents[1]) in done.out.split()]
    return found


#: Lines of ours, and of the runner while it prepares an environment.
_OWN_LINE = re.compile(
    r"Job ID: |remote-ci: |(resolving|installing) |(Resolved|Prepared|Installed|Audited|Using) .*"
    r"|.* not read; copy them to a dependency group"
    r"|(Cloning|Updating|Updated| *Building| *Built|Downloading|Downloaded) | [+~-] \S+==",
)


def _without_own_lines(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not _OWN_LINE.match(line))
