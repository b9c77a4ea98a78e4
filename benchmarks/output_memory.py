"""Peak memory of a session whose tests write a lot: ``python benchmarks/output_memory.py [--megabytes 100] [--json]``.

Each suite writes so many megabytes in one way, and runs directly and as ``pytest --remote-ci`` on a runner of its own
(engine ``process``, so that all processes can be seen):

print     one test prints it, captured by pytest
lines     a hundred tests print a hundredth each, captured
fd        one test writes it to descriptor 1 past pytest's capture (``os.write``)
child     a child process writes it there
c         C's ``puts`` writes it there
line      one line of a tenth of it, past pytest's capture

client is the developer's pytest, job the pytest over there, worker the process that started it, runner the server and
controller; direct is a plain pytest of the same suite. The last two columns are client and job over direct.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from common import positive, report_at_end
from private_runner import private_runner

Figures = dict[str, float]

_PAST = "def test_it(capfd):\n    with capfd.disabled():\n"
_CONFTEST = """
import os, re
def peak(pid):
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read()).group(1))
def pytest_unconfigure():
    with open({path!r}, "w") as file:
        file.write("%d %d" % (peak(os.getpid()), peak(os.getppid())))
"""


def suites(size: int) -> Mapping[str, str]:
    """Name → file of tests that write `size` bytes."""
    lines = size // 100
    return {
        "print": f"def test_it():\n    for _ in range({lines}): print('x' * 99)\n",
        "lines": "import pytest\n@pytest.mark.parametrize('n', range(100))\n"
        f"def test_it(n):\n    for _ in range({lines // 100}): print('x' * 99)\n",
        "fd": f"import os\n{_PAST}        for _ in range({lines // 100}): os.write(1, (b'x' * 99 + b'\\n') * 100)\n",
        "child": f"import subprocess\n{_PAST}"
        f"        subprocess.run(['sh', '-c', \"yes {'x' * 99} | head -c {size}\"])\n",
        "c": f"import ctypes\n{_PAST}        libc = ctypes.CDLL(None)\n"
        f"        for _ in range({lines}): libc.puts(b'x' * 99)\n        libc.fflush(None)\n",
        "line": f"import os\n{_PAST}        left = b'x' * {size // 10} + b'\\n'\n"
        "        while left: left = left[os.write(1, left):]\n",
    }


def peak(pid: int) -> float:
    """MiB that this process had at most so far; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return float(text.partition("VmHWM:")[2].split()[0]) / 1024 if "VmHWM:" in text else 0.0


def descendants(pid: int) -> Iterator[int]:
    """This process and what it has started, as far as that is not another's by now."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from descendants(int(child))


def run(project: Path, environ: Mapping[str, str], *args: str) -> float:
    """Peak MiB of ``pytest ARGS``."""
    command = [sys.executable, "-m", "pytest", "-q", *args]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=project, env=dict(environ), stdout=output, stderr=output)
        highest = 0.0
        while process.poll() is None:
            highest = max(highest, peak(process.pid))
            time.sleep(0.01)
        if process.returncode:
            output.seek(0)
            raise SystemExit(
                f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-3000:]!r}"
            )
    return highest


def measure(megabytes: int, results: dict[str, Figures]) -> None:
    """Add the peak MiB of each process of each suite to `results`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        with private_runner(folder, "process", None) as runner:
            environ = runner.environ(folder / "home")
            for suite, text in suites(megabytes << 20).items():
                project = folder / suite
                project.mkdir()
                (project / "pytest.ini").write_text("[pytest]\n")
                (project / "conftest.py").write_text(_CONFTEST.format(path=str(project / "peaks")))
                (project / "test_it.py").write_text(text)
                figures = {"direct": run(project, environ, "-p", "no:cacheprovider")}
                with Watched(runner.pid) as watched:
                    figures["client"] = run(project, environ, "--remote-ci")
                job, worker = (project / "peaks").read_text().split()
                figures |= {"job": int(job) / 1024, "worker": int(worker) / 1024, "runner": watched.highest}
                figures["client/direct"] = figures["client"] / figures["direct"]
                figures["job/direct"] = figures["job"] / figures["direct"]
                results[suite] = figures


class Watched:
    """The highest memory of the runner's own processes while the block runs, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.highest = 0.0

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for pid in descendants(self._pid):
                if self._is_ours(pid):
                    self.highest = max(self.highest, resident(pid))

    def _is_ours(self, pid: int) -> bool:
        try:
            return b"ci_runner" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


def resident(pid: int) -> float:
    """MiB that this process has now."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=positive, default=100, help="what each suite writes [100]")
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    options = parser.parse_args()
    results: dict[str, Figures] = {}
    with report_at_end(lambda: results, show, as_json=options.json):
        measure(options.megabytes, results)


def show(results: dict[str, Figures]) -> None:
    """Print a table."""
    names = list(next(iter(results.values()), {}))
    sys.stdout.write("MiB   " + "".join(f"{name:>15}" for name in names) + "\n")
    for suite, figures in results.items():
        sys.stdout.write(f"{suite:6}" + "".join(f"{figures[name]:15.1f}" for name in names) + "\n")


if __name__ == "__main__":
    main()
