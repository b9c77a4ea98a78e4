"""Compare ways to run the same suite, side by side: ``python benchmarks/compare.py``.

Each round runs every suite once in every way, after one file was changed (but for `unchanged`), so that a busy machine
slows all of them. Prints medians of whole commands, and their ratios to a local pytest of the same round.

Suites:

tiny      50 tests that do nothing
light     5,000 tests that do nothing, in 50 files
heavy     12 tests that keep a processor busy for a quarter of a second each
imports   10 tests that import NumPy and pandas

Ways:

local      pytest
xdist      pytest -n 2
container  docker run of an image with the requirements, the project mounted
image      docker build with the requirements in a layer of their own, then docker run
image-all  docker build that copies the project before it installs the requirements, then docker run
buildbot   buildbot try, to a master and a worker on this machine (Buildbot comes from the package index)
cold       pytest --remote-ci, the first run of an empty runner
new        pytest --remote-ci --remote-ci-cold: the environment is there, the container is not
warm       pytest --remote-ci, some seconds after the last run
unchanged  pytest --remote-ci, nothing changed since the last run
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildbot_try import buildbot
from common import clean_environment, positive, report_at_end
from private_runner import PrivateRunner, add_engine_options, parse_with_engine, private_runner

HERE = Path(__file__).resolve().parents[1]
_PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
_INSTALL = "RUN uv pip install -q --python /venv/bin/python --compile-bytecode -r requirements.txt"
#: How an image that peers build reaches packages: its variable → the runner's setting.
_PACKAGE_VARIABLES = {
    "UV_DEFAULT_INDEX": "CI_RUNNER_INDEX_URL",
    "HTTP_PROXY": "CI_RUNNER_HTTP_PROXY",
    "HTTPS_PROXY": "CI_RUNNER_HTTPS_PROXY",
    "NO_PROXY": "CI_RUNNER_NO_PROXY",
}
#: Who commits.
_IDENTITY = {
    f"GIT_{who}_{what}": "bench@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@dataclass(frozen=True)
class Suite:
    """A project, and what it needs."""

    make: Callable[[Path], None]
    packages: tuple[str, ...] = ()


def _trivial(tests: int, files: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        each = tests // files
        for number in range(files):
            body = "".join(f"def test_{test}(): pass\n" for test in range(each))
            (folder / f"test_{number}.py").write_text(body)

    return make


def _heavy(folder: Path) -> None:
    (folder / "test_0.py").write_text(
        "import time\nimport pytest\n\n@pytest.mark.parametrize('number', range(12))\ndef test_busy(number):\n"
        "    end = time.process_time() + 0.25\n    while time.process_time() < end:\n        pass\n"
    )


def _imports(folder: Path) -> None:
    (folder / "test_0.py").write_text(
        "import numpy\nimport pandas\nimport pytest\n\n@pytest.mark.parametrize('number', range(10))\n"
        "def test_sum(number):\n    assert pandas.Series(numpy.arange(number)).sum() == number * (number - 1) // 2\n"
    )


SUITES = {
    "tiny": Suite(_trivial(50, 1)),
    "light": Suite(_trivial(5_000, 50)),
    "heavy": Suite(_heavy),
    "imports": Suite(_imports, ("numpy==2.2.6", "pandas==2.2.3")),
}


@dataclass(frozen=True)
class Bench:
    """One suite's project, and what all ways to run it share."""

    folder: Path
    environ: dict[str, str]
    image: str | None
    engine: str

    @property
    def project(self) -> Path:
        """The developer's checkout."""
        return self.folder / "project"

    @property
    def origin(self) -> Path:
        """The repository that it was cloned from."""
        return self.folder / "origin.git"

    @property
    def python(self) -> str:
        """The interpreter of the developer's environment."""
        return str(self.folder / "venv" / "bin" / "python")

    def pytest(self, *args: str, environ: dict[str, str] | None = None) -> None:
        """Run pytest in the developer's environment."""
        run([self.python, *_PYTEST, *args], cwd=self.project, env=environ or self.environ)


def run(command: list[str], *, cwd: Path, env: dict[str, str]) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def make_bench(suite: Suite, folder: Path, image: str | None, engine: str) -> Bench:
    """Make a suite's project, a git repository, and the developer's environment for it."""
    import uv

    sys.path.append(str(HERE / "scripts"))
    from install_wheel import built_wheel

    bench = Bench(folder, clean_environment() | {"HOME": str(folder / "home")}, image, engine)
    (folder / "home").mkdir(parents=True)
    tests = bench.project / "tests"
    tests.mkdir(parents=True)
    suite.make(tests)
    requirements = bench.project / "requirements.txt"
    requirements.write_text("\n".join(("pytest==8.3.4", *suite.packages)) + "\n")
    (bench.project / ".gitignore").write_text("__pycache__/\n")
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["commit", "-q", "-m", "Begin"],
        ["clone", "-q", "--bare", ".", str(bench.origin)],
        ["remote", "add", "origin", str(bench.origin)],
        ["fetch", "-q"],
        ["branch", "-q", "--set-upstream-to", "origin/main"],
    ):
        run(["git", *command], cwd=bench.project, env=bench.environ | _IDENTITY)
    venv = ["venv", "-q", "--python", sys.executable, str(folder / "venv")]
    install = ["pip", "install", "-q", "--python", bench.python, "--compile-bytecode"]
    run([uv.find_uv_bin(), *venv], cwd=folder, env=bench.environ)
    run(
        [uv.find_uv_bin(), *install, "-r", str(requirements), "pytest-xdist", str(built_wheel())],
        cwd=folder,
        env=bench.environ,
    )
    return bench


def edit(bench: Bench, number: int) -> None:
    """Change one file, as a developer does between two runs."""
    with (bench.project / "tests" / "test_0.py").open("a") as file:
        file.write(f"# change {number}\n")


@dataclass(frozen=True)
class Way:
    """How a suite is run."""

    run: Callable[[], object]
    #: What comes before each run and is not measured.
    prepare: Callable[[], None] = lambda: None


@contextmanager
def local(bench: Bench) -> Iterator[Way]:
    """Run pytest on this machine."""
    yield Way(bench.pytest)


@contextmanager
def xdist(bench: Bench) -> Iterator[Way]:
    """Run pytest in two processes on this machine."""
    yield Way(partial(bench.pytest, "-n", "2"))


def docker(*args: str, cwd: Path) -> None:
    """Run a command of Docker; the engine itself builds images, which needs no plugin of the client."""
    run(["docker", *args], cwd=cwd, env=dict(os.environ) | {"DOCKER_BUILDKIT": "0"})


@contextmanager
def built(tag: str, context: Path, *lines: str) -> Iterator[Callable[[], None]]:
    """Yield what builds an image; the image is gone afterwards."""
    with tempfile.TemporaryDirectory() as made:
        recipe = Path(made) / "Dockerfile"
        recipe.write_text("\n".join([*lines, ""]))
        try:
            yield partial(docker, "build", "-q", "-t", tag, "-f", str(recipe), ".", cwd=context)
        finally:
            docker("image", "rm", "--force", tag, cwd=context)


@contextmanager
def with_uv(bench: Bench) -> Iterator[str]:
    """Make an image that has a Python and uv and reaches the package index."""
    import uv

    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    recipe = [f"FROM {bench.image or f'python:{version}'}", "COPY uv /usr/local/bin/uv"]
    recipe.append(f"RUN uv venv -q --python {version} /venv")
    with tempfile.TemporaryDirectory() as made:
        context = Path(made)
        shutil.copy(uv.find_uv_bin(), context / "uv")
        if bundle := os.environ.get("CI_RUNNER_CA_BUNDLE"):
            shutil.copy(bundle, context / "ca.pem")
            recipe += ["COPY ca.pem /ca.pem", "ENV SSL_CERT_FILE=/ca.pem"]
        for variable, setting in _PACKAGE_VARIABLES.items():
            if value := os.environ.get(setting):
                recipe.append(f"ENV {variable}={value}")
        tag = f"ci-runner-compare:{os.getpid()}-{bench.folder.name}"
        with built(tag, context, *recipe, "WORKDIR /src") as build:
            build()
            yield tag


def run_image(bench: Bench, *args: str) -> None:
    """Run pytest in a container of an image."""
    docker("run", "--rm", *args, "/venv/bin/python", *_PYTEST, cwd=bench.project)


@contextmanager
def container(bench: Bench) -> Iterator[Way]:
    """Run an image that has all requirements; the project is mounted."""
    with with_uv(bench) as base:
        tag = f"{base}-prepared"
        with built(tag, bench.project, f"FROM {base}", "COPY requirements.txt .", _INSTALL) as build:
            build()
            mount = f"{bench.project}:/src:ro"
            yield Way(partial(run_image, bench, "-v", mount, "-e", "PYTHONDONTWRITEBYTECODE=1", tag))


@contextmanager
def image_per_run(bench: Bench, *lines: str) -> Iterator[Way]:
    """Build an image for each run."""
    with with_uv(bench) as base:
        tag = f"{base}-job"
        with built(tag, bench.project, f"FROM {base}", *lines) as build:

            def build_and_run() -> None:
                build()
                run_image(bench, tag)

            yield Way(build_and_run)


def image(bench: Bench) -> AbstractContextManager[Way]:
    """Build an image whose requirements are a layer of their own."""
    return image_per_run(bench, "COPY requirements.txt .", _INSTALL, "COPY . .")


def image_all(bench: Bench) -> AbstractContextManager[Way]:
    """Build an image that installs the requirements after the project was copied."""
    return image_per_run(bench, "COPY . .", _INSTALL)


@contextmanager
def buildbot_try(bench: Bench) -> Iterator[Way]:
    """Send what changed to a Buildbot, whose worker runs pytest in the developer's environment."""
    with buildbot(bench.folder / "buildbot", bench.origin, [bench.python, *_PYTEST]) as found:
        yield Way(partial(run, found.try_command(), cwd=bench.project, env=bench.environ))


@contextmanager
def runner(bench: Bench) -> Iterator[PrivateRunner]:
    """Start an empty runner."""
    with (
        tempfile.TemporaryDirectory() as made,
        private_runner(Path(made), bench.engine, bench.image) as found,
    ):
        yield found


def _remote(bench: Bench, found: PrivateRunner, *args: str) -> None:
    bench.pytest("--remote-ci", *args, environ=found.environ(bench.folder / "home"))


@contextmanager
def cold(bench: Bench) -> Iterator[Way]:
    """Run on a runner that has never run anything; its own start is not measured."""
    with ExitStack() as runners:
        ready: list[PrivateRunner] = []

        def replace() -> None:
            runners.close()
            ready[:] = [runners.enter_context(runner(bench))]

        yield Way(lambda: _remote(bench, ready[0]), replace)


@contextmanager
def warm(bench: Bench) -> Iterator[Way]:
    """Run on a runner that has run this suite before."""
    with runner(bench) as found:
        yield Way(partial(_remote, bench, found), _read_the_result)


@contextmanager
def new(bench: Bench) -> Iterator[Way]:
    """Run on such a runner, in a container that starts with the job."""
    with runner(bench) as found:
        yield Way(partial(_remote, bench, found, "--remote-ci-cold"))


def _read_the_result() -> None:
    """Wait as long as developers at least do between two runs."""
    time.sleep(3)


WAYS: dict[str, Callable[[Bench], AbstractContextManager[Way]]] = {
    "local": local,
    "xdist": xdist,
    "container": container,
    "image": image,
    "image-all": image_all,
    "buildbot": buildbot_try,
    "cold": cold,
    "new": new,
    "warm": warm,
    "unchanged": warm,
}


def measure(bench: Bench, names: list[str], rounds: int, found: dict[str, list[float]]) -> None:
    """Run a suite in all ways in turns; the first round is not measured, but for the cold run."""
    with ExitStack() as stack:
        ways = {name: stack.enter_context(WAYS[name](bench)) for name in names}
        for number in range(rounds + 1):
            for name, way in ways.items():
                if number == 0 and name == "cold":
                    continue
                if name != "unchanged":
                    edit(bench, number)
                way.prepare()
                began = time.perf_counter()
                way.run()
                if number:
                    found[name].append(time.perf_counter() - began)


#: Suite → way → seconds of each round.
Figures = dict[str, dict[str, list[float]]]


def show(found: Figures) -> None:
    """Print the medians, and what they are to the local ones."""
    for suite, ways in found.items():
        print(suite)
        base = statistics.median(ways["local"]) if ways.get("local") else 0.0
        for way, seconds in ways.items():
            if seconds:
                median = statistics.median(seconds)
                ratio = f"{median / base:8.2f} × local  {median - base:+8.2f} s" if base else ""
                print(f"  {way:<10}{median:8.2f} s{ratio}")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=5, help="runs of each kind [5]")
    parser.add_argument("--suites", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    arguments = parse_with_engine(parser)
    found: Figures = {suite: {way: [] for way in arguments.ways} for suite in arguments.suites}
    with report_at_end(lambda: found, show, as_json=arguments.json), tempfile.TemporaryDirectory() as made:
        for suite in arguments.suites:
            print(f"{suite} …", file=sys.stderr, flush=True)
            bench = make_bench(SUITES[suite], Path(made) / suite, arguments.base_image, arguments.engine)
            measure(bench, arguments.ways, arguments.rounds, found[suite])


if __name__ == "__main__":
    main()
