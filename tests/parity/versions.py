"""One suite with every kind of outcome, with one version of pytest here and another one there.

What a session shows of versions that differ is the remote version's results in the local version's words: each line
in which it differs from a direct run of the remote version must be a line of a direct run of the local one.
"""

from __future__ import annotations

import difflib
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from support import client_environments
from support.developer import FIXTURES, Developer, Done, run

from .comparison import difference, normalised

#: The newest of each minor version that is supported.
VERSIONS = ("7.4.4", "8.0.2", "8.1.2", "8.2.2", "8.3.5", "8.4.2", "9.0.3", "9.1.1", "9.2.0")
ARGS = ("-v", "-rA", "--tb=short")
_WORD = re.compile(r"^(\S*::\S.*?|\S+\.py) ([A-Z]{4,}(?: ?[\[(].*?)?)\s+\[ *\d+%\]$", re.MULTILINE)
_LAST = re.compile(r"^=+ (.*\b(?:passed|failed|error)\b.*) in \d", re.MULTILINE)


def requirements(version: str) -> tuple[str, ...]:
    """What a project pins to get this pytest; before 9.0 subtests are a plugin's."""
    own = (f"pytest=={version}",)
    return own if int(version.partition(".")[0]) >= 9 else (*own, "pytest-subtests==0.13.1")


@dataclass
class Skew:
    """Runs the suite; remembers direct runs."""

    developer: Developer
    folder: Path
    python: str = ""
    _direct: dict[str, Done] = field(default_factory=dict)

    def place(self, name: str, version: str) -> Path:
        """A copy of the suite that pins this version."""
        place = self.folder / name / version / "outcomes"
        if not place.exists():
            shutil.copytree(FIXTURES / "parity" / "outcomes", place)
            (place / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements(version)))
        return place

    def directly(self, version: str) -> Done:
        """A run of this version."""
        if version not in self._direct:
            folder = (
                client_environments.ROOT
                / ".cache"
                / "clients"
                / f"direct-{client_environments.TAG}-{version}"
            )
            python = client_environments.environment(folder, *requirements(version))
            env = {key: value for key, value in self.developer.environ().items() if "REMOTE_CI" not in key}
            self._direct[version] = run(
                [str(python), "-m", "pytest", *ARGS],
                cwd=self.place("direct", version),
                env=env | {"COLUMNS": "100"},
            )
        return self._direct[version]

    def remotely(self, local: str, remote: str) -> Done:
        """`local` shows what `remote` runs."""
        developer = replace(self.developer, python=str(client_environments.client(local)))
        return developer.pytest(*ARGS, cwd=self.place("remote", remote), COLUMNS="100")

    def problem(self, local: str, remote: str) -> str:
        """What is not as it should be; "" is nothing."""
        shown, run_there, run_here = self.remotely(local, remote), self.directly(remote), self.directly(local)
        places = [self.place(name, remote) for name in ("direct", "remote")]
        if local == remote:
            return difference(run_there, shown, *places)
        found = []
        if shown.code != run_there.code:
            found.append(f"exit code {shown.code}, not {run_there.code}")
        for what, pattern in (("words", _WORD), ("counts", _LAST)):
            ours, theirs = (sorted(pattern.findall(done.out)) for done in (shown, run_there))
            if ours != theirs:
                found += [f"{what}: {item} only here" for item in ours if item not in theirs]
                found += [f"{what}: {item} only there" for item in theirs if item not in ours]
        there, here = (
            _masked(done.out, place) for done, place in zip((run_there, shown), places, strict=True)
        )
        known = set(_masked(run_here.out, self.place("direct", local)).splitlines())
        longer = tuple(there.splitlines())  # the local version may leave the end of a line out
        for line in difflib.unified_diff(there.splitlines(), here.splitlines(), lineterm="", n=0):
            if line.startswith("+") and not line.startswith("+++") and line[1:] not in known:
                if any(other.startswith(line[1:]) for other in longer if len(line) > 30):
                    continue
                found.append(f"a line that neither version prints: {line[1:]}")
        return "\n".join(found)


def _masked(text: str, place: Path) -> str:
    """Lines of pytest's own sources are another version's."""
    return re.sub(r"(<ENV>\S+\.py):\d+", r"\1:N", normalised(text, place))
