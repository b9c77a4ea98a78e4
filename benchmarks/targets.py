"""Compare a remote session with its targets, each beside a baseline of the same run: ``python benchmarks/targets.py``.

Starts a runner of its own, and prints one row for each target: the target, what was measured, what the same costs
without a runner, and the verdict. Figures are medians unless they say otherwise. On a busy machine only the comparison
with the baseline means something.

tiny      a warm run of 50 trivial tests, one file changed: the whole command over local pytest
second    the same with tests that take one second: the ratio
first     Enter to the first test's result on screen, over that of a local run
files     10,000 files, unchanged and one changed: the whole command over local pytest, and the bytes that are sent
upload    the first upload of contents that do not compress, against a plain PUT of the same bytes on loopback
pick-up   a queued job with a free slot, by the runner's own clock, 95th percentile
line      a printed line to the client's screen, 95th percentile
unused    processor time of pytest on an empty folder, with the plugin installed and unused
idle      processor time and memory of a runner with nothing to do
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import itertools
import os
import pty
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from collect import make_project
from common import positive, report_at_end
from private_runner import PrivateRunner, add_engine_options, parse_with_engine, private_runner
from startup import session as empty_session

from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.delta import WorkspaceUpload, deliver
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.workspace import collect as workspace

_PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
_MB = 1e6


@dataclass(frozen=True)
class Row:
    """One target."""

    name: str
    target: str
    figure: str
    #: What the same costs without a runner.
    baseline: str
    met: bool


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    runner: PrivateRunner
    folder: Path
    runs: int
    files: int
    megabytes: int

    @property
    def environ(self) -> dict[str, str]:
        """A client's environment."""
        return self.runner.environ(self.folder)

    def project(self, name: str, test: str) -> Path:
        """Return a project with one test file."""
        root = self.folder / name
        (root / "tests").mkdir(parents=True)
        (root / "tests" / "test_it.py").write_text(test)
        (root / "requirements.txt").write_text("pytest==8.3.4\n")
        return root

    def pairs(self, root: Path, change: bool = True) -> tuple[float, float]:
        """Return the seconds of a local and of a remote run, measured in turns."""
        found: dict[bool, list[float]] = {False: [], True: []}
        seconds(root, self.environ, remote=True)
        for number in range(self.runs):
            for remote in found:
                if change:
                    edit(root, number)
                found[remote].append(seconds(root, self.environ, remote=remote))
        return statistics.median(found[False]), statistics.median(found[True])


def edit(root: Path, number: int) -> None:
    """Change the test file."""
    with (root / "tests" / "test_it.py").open("a") as file:
        file.write(f"# change {number}\n")


def seconds(root: Path, environ: dict[str, str], *, remote: bool) -> float:
    """Return the seconds of one session."""
    began = time.perf_counter()
    command = [*_PYTEST, "-q", *(["--remote-ci"] if remote else [])]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a session failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def screen(root: Path, environ: dict[str, str], *args: str) -> Iterator[tuple[float, str]]:
    """Run a session on a terminal of its own; yield its lines, each with the time of its arrival."""
    leader, follower = pty.openpty()
    with subprocess.Popen([*_PYTEST, *args], cwd=root, env=environ, stdout=follower, stderr=follower):
        os.close(follower)
        rest = b""
        with open(leader, "rb", buffering=0) as file, contextlib.suppress(OSError):  # noqa: PTH123  # a descriptor
            while piece := file.read(4096):
                *lines, rest = (rest + piece).split(b"\n")
                now = time.time()
                yield from ((now, line.decode(errors="replace")) for line in lines)


def tiny(bench: Bench) -> Iterator[Row]:
    """Measure a warm run of 50 trivial tests."""
    root = bench.project("tiny", "".join(f"def test_{n}(): pass\n" for n in range(50)))
    local, remote = bench.pairs(root)
    yield row(
        "tiny suite, one file changed", "≤ local + 0.35 s (warm starts: 0.10)", local, remote, local + 0.35
    )


def second(bench: Bench) -> Iterator[Row]:
    """Measure a suite whose tests take a second."""
    test = "import time\nimport pytest\n@pytest.mark.parametrize('n', range(10))\ndef test_it(n): time.sleep(0.1)\n"
    local, remote = bench.pairs(bench.project("second", test))
    yield row("one second of tests, one file changed", "≤ 1.05 × local", local, remote, local * 1.05)


def first(bench: Bench) -> Iterator[Row]:
    """Measure when the first result is on the screen."""
    root = bench.project("first", "".join(f"def test_{n}(): pass\n" for n in range(50)))
    found: dict[bool, list[float]] = {False: [], True: []}
    seconds(root, bench.environ, remote=True)
    for _ in range(bench.runs):
        for remote, times in found.items():
            began = time.time()
            lines = screen(root, bench.environ, "-v", *(["--remote-ci"] if remote else []))
            shown = [at for at, line in lines if "PASSED" in line]
            times.append(shown[0] - began)
    local, remote_time = statistics.median(found[False]), statistics.median(found[True])
    yield row("Enter to the first result on screen", "≤ local + 0.10 s", local, remote_time, local + 0.10)


def files(bench: Bench) -> Iterator[Row]:
    """Measure a project with many files, and what is sent of it."""
    root = bench.project("files", "def test_it(): pass\n")
    make_project(root, bench.files)
    time.sleep(2.5)  # digests of files that were just written are not remembered
    local, remote = bench.pairs(root, change=False)
    name = f"{bench.files} files"
    yield row(f"{name}, unchanged", "≤ local + 0.35 s", local, remote, local + 0.35)
    local, remote = bench.pairs(root)
    yield row(f"{name}, one changed", "≤ local + 0.40 s", local, remote, local + 0.40)


def _submit(client: Client, sent: WorkspaceUpload) -> str:
    return client.submit(sent.archive, OPTIONS, manifest=sent.manifest)


def upload(bench: Bench) -> Iterator[Row]:
    """Measure the first upload of contents that do not compress."""
    rng = random.Random(2)
    figures: dict[str, list[float]] = {"plain": [], "ours": []}
    size = bench.megabytes << 20
    for number in range(max(1, bench.runs // 3)):
        root = bench.project(f"upload{number}", "def test_it(): pass\n")
        for part in range(8):
            (root / f"data{part}.bin").write_bytes(rng.randbytes(size // 8))
        figures["plain"].append(put(root))
        found = workspace.collect(root, cache_folder=bench.folder, allow_secrets=True)
        with Client(bench.runner.url, bench.runner.key) as client:
            began = time.perf_counter()
            job = deliver(client, found, partial(_submit, client), again=itertools.repeat(found).__next__)
            figures["ours"].append(time.perf_counter() - began)
            client.cancel(job)
    plain, ours = (size / _MB / statistics.median(figures[name]) for name in ("plain", "ours"))
    yield Row(
        f"first upload of {bench.megabytes} MiB, incompressible",
        "≥ 0.8 × a plain PUT",
        f"{ours:.0f} MB/s ({ours / plain:.2f} ×)",
        f"{plain:.0f} MB/s",
        ours >= 0.8 * plain,
    )


OPTIONS = SubmitOptions(args=("-q",), records=True, network="none")


class _Sink(http.server.BaseHTTPRequestHandler):
    """Takes a body and writes it to an unnamed file, as a server of uploads does."""

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        with tempfile.TemporaryFile() as file:
            while left:
                piece = self.rfile.read(min(left, 1 << 18))
                file.write(piece)
                left -= len(piece)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


def put(root: Path) -> float:
    """Return the seconds of a plain PUT of the project's files."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            began = time.perf_counter()
            for path in sorted(root.glob("*.bin")):
                connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
                with path.open("rb") as file:
                    connection.request(
                        "PUT", "/", body=file, headers={"Content-Length": str(path.stat().st_size)}
                    )
                    connection.getresponse().read()
                connection.close()
            return time.perf_counter() - began
        finally:
            server.shutdown()
            thread.join()


def pick_up(bench: Bench) -> Iterator[Row]:
    """Measure how long a job waits if a slot is free."""
    root = bench.project("pick-up", "def test_it(): pass\n")
    found = workspace.collect(root, cache_folder=bench.folder, allow_secrets=True)
    waited: list[float] = []
    with Client(bench.runner.url, bench.runner.key) as client, tempfile.TemporaryFile() as archive:
        found.write_zip(archive)
        for _ in range(3 * bench.runs):
            archive.seek(0)
            job = client.submit(archive, OPTIONS)
            *_, complete = client.stream(job)
            timing = complete.timing
            assert timing is not None
            waited.append(timing.phases["queue"])
    p95 = percentile(waited)
    yield Row(
        "pick-up of a queued job, p95",
        "≤ 50 ms",
        f"{p95 * 1000:.0f} ms",
        f"median {statistics.median(waited) * 1000:.0f} ms",
        p95 <= 0.05,
    )


def line(bench: Bench) -> Iterator[Row]:
    """Measure how long a printed line is on its way."""
    test = (
        "import time\n\ndef test_it():\n    time.sleep(1)\n    for _ in range(100):\n"
        "        print('\\nat', repr(time.time()), flush=True)\n        time.sleep(0.031)\n"
    )
    root = bench.project("line", test)
    late: dict[bool, list[float]] = {False: [], True: []}
    for remote, found in late.items():
        for at, text in screen(root, bench.environ, "-s", *(["--remote-ci"] if remote else [])):
            if text.startswith("at "):
                found.append(at - float(text.split()[1]))
    local, remote_time = (percentile(late[remote]) for remote in (False, True))
    yield Row(
        "printed line to the screen, p95",
        "≤ 30 ms",
        f"{remote_time * 1000:.1f} ms (median {statistics.median(late[True]) * 1000:.1f})",
        f"{local * 1000:.1f} ms",
        remote_time <= 0.03,
    )


def unused(bench: Bench) -> Iterator[Row]:
    """Measure what the installed plugin costs a pytest that does not use it."""
    folder = bench.folder / "unused"
    folder.mkdir()
    used: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(4 * bench.runs):
        used["with"].append(empty_session(folder)[1])
        used["without"].append(empty_session(folder, "-p", "no:remote_ci")[1])
    medians = {name: statistics.median(values) for name, values in used.items()}
    more = medians["with"] - medians["without"]
    yield Row(
        "plugin installed and unused, processor time",
        "≤ 3 ms",
        f"{more:.1f} ms",
        f"{medians['without']:.0f} ms",
        more <= 3,
    )


def idle(bench: Bench) -> Iterator[Row]:
    """Measure a runner with nothing to do: both of its processes."""
    look = min(10.0, 1.0 * bench.runs)
    time.sleep(2)  # what the last job left is removed
    processes = list(family(bench.runner.pid))
    before = sum(map(processor, processes))
    time.sleep(look)
    share = (sum(map(processor, processes)) - before) / look * 100
    memory = sum(map(resident, processes)) / _MB
    yield Row(
        "idle runner",
        "< 1 % of a core, < 100 MB",
        f"{share:.1f} %, {memory:.0f} MB",
        "-",
        share < 1 and memory < 100,
    )


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from family(int(name))


def processor(pid: int) -> float:
    """Return the processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return the bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def percentile(values: list[float]) -> float:
    """Return the 95th."""
    if len(values) < 2:
        raise SystemExit("too little was measured")
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def row(name: str, target: str, local: float, remote: float, most: float) -> Row:
    """Return the row of a session's time."""
    figure = f"{remote:.3f} s (+{remote - local:.3f} s, {remote / local:.2f} ×)"
    return Row(name, target, figure, f"{local:.3f} s", remote <= most)


MEASUREMENTS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "tiny": tiny,
    "second": second,
    "first": first,
    "files": files,
    "upload": upload,
    "pick-up": pick_up,
    "line": line,
    "unused": unused,
    "idle": idle,
}


def show(found: list[dict[str, object]]) -> None:
    """Print a table."""
    for item in found:
        verdict = "met" if item["met"] else "MISSED"
        print(
            f"{item['name']}\n  {item['target']:<38}{item['figure']:<34}local {item['baseline']:<14}{verdict}"
        )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=positive, default=15, help="runs of each kind [15]")
    parser.add_argument("--files", type=positive, default=10_000, help="files of the large project [10000]")
    parser.add_argument("--megabytes", type=positive, default=100, help="size of the first upload [100]")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    arguments = parse_with_engine(parser)
    rows: list[dict[str, object]] = []
    with report_at_end(lambda: rows, show, as_json=arguments.json), tempfile.TemporaryDirectory() as made:
        folder, data = Path(made) / "home", Path(made) / "runner"
        folder.mkdir()
        data.mkdir()
        with private_runner(data, arguments.engine, arguments.base_image) as runner:
            bench = Bench(runner, folder, arguments.runs, arguments.files, arguments.megabytes)
            for name in arguments.only:
                print(f"{name} …", file=sys.stderr, flush=True)
                rows.extend(asdict(found) for found in MEASUREMENTS[name](bench))


if __name__ == "__main__":
    main()
