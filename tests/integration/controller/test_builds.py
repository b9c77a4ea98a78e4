"""Build containers whose program does its worst: whatever comes out of one is read as foreign."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

from ci_runner.controller.engine import Limits
from ci_runner.controller.engines.process.engine import ProcessEngine
from ci_runner.controller.environments.builds import Build, Builds, Built
from ci_runner.controller.environments.cells import CachePlace, Cells
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.errors import EngineUnavailable, EnvironmentFailed
from ci_runner.storage.safe_fs import Trash

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
#: What every builder here begins with.
HEAD = """
import json, os, sys, time
spool = sys.argv[1]
def path(name): return os.path.join(spool, name)
def say(data): open(path("output"), "ab").write(data)
def result(text):
    open(path("tmp"), "w").write(text)
    os.rename(path("tmp"), path("result.json"))
"""


class Bench:
    """Builds over the process engine, with a builder of the test's own."""

    def __init__(self, folder: Path, places: int = 2, install: str | None = None) -> None:
        self.folder = folder
        self.tools = folder / "tools"
        self.shared = folder / "shared"
        for made in (self.tools, self.shared):
            made.mkdir(exist_ok=True)
        self.engine = ProcessEngine(install or uuid.uuid4().hex[:12], folder=folder / "processes")
        self.builds = self.make(places)
        self.log: list[str] = []
        self.stop = threading.Event()

    def make(self, places: int = 2) -> Builds:
        """What a new controller has."""
        cells = Cells(self.folder, Trash(self.folder / "trash"))
        return Builds(
            self.engine,
            cells,
            prefix="x-",
            install_id="0123456789ab",
            owner=None,
            limits=Limits(),
            places=places,
        )

    def run(self, code: str, python: str = PYTHON, cache: CachePlace | None = None) -> Built:
        """Run a builder of this code to its end."""
        (self.tools / "builder.py").write_text(HEAD + code)
        identity = uuid.uuid4().hex
        build = Build(identity, 1, "host", python, (), cache, may_build=False, cwd="/", user="alice")
        with self.builds.run(build, self.tools, log=self.log.append, stopping=self.stop.is_set) as built:
            return built

    def is_clean(self) -> bool:
        """Nothing is left of any build."""
        left = [path for part in ("builds", "trash") for path in (self.folder / part).glob("*")]
        return not left and not self.engine.list() and not self.builds.in_use()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    assert made.is_clean()
    made.engine.close()


def test_output_arrives_line_by_line_and_a_result_at_the_end(bench: Bench) -> None:
    built = bench.run(
        "say(b'one\\r\\ntw'); time.sleep(0.2); say(b'o\\ncaf\\xe9\\nno end')\nresult('{\"ok\": true}')"
    )
    assert built.result == {"ok": True}
    assert bench.log == ["one", "two", "caf\ufffd", "no end"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("result('{')", "no readable result", id="broken JSON"),
        pytest.param("result('[1]')", "no readable result", id="no object"),
        pytest.param("result('[' * 100000)", "no readable result", id="nested without end"),
        pytest.param("os.symlink('/etc/hostname', path('result.json'))", "no readable result", id="a link"),
        pytest.param("os.mkfifo(path('result.json'))", "no readable result", id="a pipe"),
        pytest.param("os.mkdir(path('result.json'))", "no readable result", id="a folder"),
        pytest.param("result('{\"x\": \"' + 'y' * (33 << 20) + '\"}')", "no readable result", id="too large"),
        pytest.param(
            "sys.exit('these are\\nmy last words')", "ended early: these are", id="an end without a result"
        ),
        pytest.param("sys.exit(3)", "ended early: exit code 3", id="a silent end"),
        pytest.param("os.kill(os.getpid(), 9)", "ended early: exit code 137", id="killed"),
        pytest.param(
            "os.symlink('/nowhere', path('result.json'))", "no readable result", id="a link to nothing"
        ),
    ],
)
def test_what_a_build_leaves_instead_of_a_result_is_no_result(bench: Bench, code: str, words: str) -> None:
    with pytest.raises(EnvironmentFailed, match=words):
        bench.run(code)


def test_output_without_end_is_cut_and_a_link_in_its_place_is_not_followed(bench: Bench) -> None:
    bench.run("say(b'x' * 10000 + b'\\n')\nfor _ in range(6): say(b'y' * (1 << 20))\nresult('{}')")
    assert bench.log[0] == "x" * 4096
    assert max(map(len, bench.log)) <= 4096
    bench.log.clear()
    bench.run("os.symlink('/etc/hostname', path('output'))\nresult('{}')")
    assert bench.log == []


def test_a_python_that_the_image_lacks_is_named(bench: Bench) -> None:
    with pytest.raises(EnvironmentFailed, match=r"ended early: no Python 3\.99 in this image"):
        bench.run("", python="3.99")


def test_a_stopped_build_is_killed_with_all_it_started(bench: Bench) -> None:
    code = "import subprocess\nchild = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
    code += f"open({str(bench.shared / 'child')!r}, 'w').write(str(child.pid))\ntime.sleep(300)"
    failures: list[BaseException] = []

    def build() -> None:
        try:
            bench.run(code)
        except PreparationStopped as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    child = bench.shared / "child"
    wait_until(lambda: child.exists() and child.read_text(), 20, what="the build's child")
    assert len(bench.builds.in_use()) == 1
    bench.stop.set()
    thread.join(20)
    assert [str(error) for error in failures] == ["stopped while the environment was built"]
    assert not Path("/proc", child.read_text()).exists()


def test_who_waits_for_a_slot_can_be_stopped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, places=1)
    go = bench.shared / "go"
    code = f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nresult('{{}}')"
    results: list[Built] = []
    thread = threading.Thread(target=lambda: results.append(bench.run(code)))
    thread.start()
    wait_until(bench.engine.list, 20, what="the first build")
    second = Build("other", 1, "host", PYTHON, (), None, may_build=False, cwd="/", user="alice")
    stop = threading.Event()
    looks: list[bool] = []
    failures: list[str] = []

    def stopping() -> bool:
        looks.append(stop.is_set())
        return stop.is_set()

    def wait() -> None:
        try:
            with bench.builds.run(second, bench.tools, log=bench.log.append, stopping=stopping) as built:
                results.append(built)
        except PreparationStopped as error:
            failures.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: len(looks) >= 3, 20, what="the second build to wait on")
    assert (len(bench.engine.list()), failures, results) == (1, [], [])
    stop.set()
    waiting.join(20)
    assert failures == ["stopped before the environment was built"]
    assert (len(bench.engine.list()), results) == (1, []), "the first goes on"
    go.touch()
    thread.join(20)
    assert [built.result for built in results] == [{}]
    assert bench.run("result('{\"third\": 3}')").result == {"third": 3}, "the slot is free again"
    assert bench.is_clean()
    bench.engine.close()


def test_builds_that_hang_keep_no_other_users_build_waiting(tmp_path: Path) -> None:
    bench = Bench(tmp_path, places=2)
    go = bench.shared / "go"
    (bench.tools / "builder.py").write_text(
        HEAD + f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\nresult('{{}}')"
    )
    hanging = [
        threading.Thread(target=run_as, args=(bench, "alice", f"alice-{number}")) for number in range(4)
    ]
    for thread in hanging:
        thread.start()
    wait_until(lambda: len(bench.engine.list()) == 2, 20, what="alice's two builds")
    other = threading.Thread(target=run_as, args=(bench, "bob", "bob-1"))
    other.start()
    wait_until(lambda: len(bench.engine.list()) == 3, 20, what="bob's build, before alice's others")
    assert sum(seen.job_id.startswith("alice") for seen in bench.engine.list()) == 2
    go.touch()
    for thread in (*hanging, other):
        thread.join(20)
    assert bench.is_clean()
    bench.engine.close()


def run_as(bench: Bench, user: str, job_id: str) -> None:
    build = Build(job_id, 1, "host", PYTHON, (), None, may_build=False, cwd="/", user=user)
    with bench.builds.run(build, bench.tools, log=bench.log.append, stopping=bench.stop.is_set):
        pass


# -- cells and package caches
CACHE = CachePlace("alice", "dependencies")
#: Notes that it ran, in the cache, and says what it found there.
REMEMBER = """
cache = os.path.join(os.path.dirname(spool), "store", "cache")
before = sorted(os.listdir(cache))
open(os.path.join(cache, "mark-%d" % len(before)), "w").close()
result(json.dumps({"before": before}))
"""


def shelf(bench: Bench, scope: str = "alice") -> list[str]:
    return sorted(path.name for path in (bench.folder / "environments" / scope / "cache").iterdir())


def test_a_package_cache_is_lent_to_one_build_after_the_other(bench: Bench) -> None:
    found = [bench.run(REMEMBER, cache=CACHE).result["before"] for _ in range(3)]
    assert found == [[], ["mark-0"], ["mark-0", "mark-1"]]
    assert shelf(bench) == ["dependencies.0"]
    other = CachePlace("alice", "project"), CachePlace("bob", "dependencies")
    assert [bench.run(REMEMBER, cache=place).result["before"] for place in other] == [[], []]
    assert shelf(bench) == ["dependencies.0", "project.0"]


def test_builds_at_the_same_time_have_a_cache_each(bench: Bench) -> None:
    bench.run(REMEMBER, cache=CACHE)
    go = bench.shared / "go"
    waits = f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\n" + REMEMBER
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(bench.run(waits, cache=CACHE).result["before"]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(bench.builds.in_use()) == 2, 20, what="both builds")
    wait_until(
        lambda: len(list((bench.folder / "builds").glob("*/store/cache"))) == 2, 20, what="both caches"
    )
    go.touch()
    for thread in threads:
        thread.join(20)
    assert sorted(found, key=str) == [["mark-0"], []]
    assert shelf(bench) == ["dependencies.0", "dependencies.1"]


@pytest.mark.parametrize("failure", ["sys.exit(1)", "result('[]')"])
def test_a_failed_build_gives_its_cache_back(bench: Bench, failure: str) -> None:
    bench.run(REMEMBER, cache=CACHE)
    with pytest.raises(EnvironmentFailed):
        bench.run(failure, cache=CACHE)
    assert bench.run(REMEMBER, cache=CACHE).result["before"] == ["mark-0"]


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("os.symlink({target!r}, cache)", id="a link"),
        pytest.param("open(cache, 'w').close()", id="a file"),
        pytest.param("os.mkfifo(cache)", id="a pipe"),
        pytest.param("pass", id="nothing"),
    ],
)
def test_what_is_no_package_cache_any_more_does_not_come_back(
    bench: Bench, tmp_path: Path, attack: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").touch()
    code = "store = os.path.join(os.path.dirname(spool), 'store')\ncache = store + '/cache'\n"
    code += "os.rename(cache, store + '/away')\n" + attack.format(target=str(target)) + "\nresult('{}')"
    bench.run(code, cache=CACHE)
    assert shelf(bench) == []
    assert (target / "file").exists()
    assert bench.run(REMEMBER, cache=CACHE).result["before"] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "content"])
def test_a_cache_that_was_written_under_another_uid_is_replaced(bench: Bench, what: str) -> None:
    bench.run(REMEMBER, cache=CACHE)
    [cache] = (bench.folder / "environments" / "alice" / "cache").iterdir()
    os.chown(cache if what == "folder" else cache / "mark-0", 65532, 65532)
    assert bench.run(REMEMBER, cache=CACHE).result == {"before": []}
    assert bench.run(REMEMBER, cache=CACHE).result == {"before": ["mark-0"]}
    assert shelf(bench) == ["dependencies.0"]
    Trash(bench.folder / "trash").empty()


def test_a_closed_cache_and_a_closed_store_come_back(bench: Bench) -> None:
    bench.run(REMEMBER, cache=CACHE)
    code = "store = os.path.join(os.path.dirname(spool), 'store')\nresult('{}')\n"
    code += "os.chmod(store + '/cache', 0)\nos.chmod(store, 0)\nos.chmod(spool, 0)"
    bench.run(code, cache=CACHE)
    assert bench.run(REMEMBER, cache=CACHE).result["before"] == ["mark-0"]


def test_while_the_engine_is_silent_nothing_is_taken_from_a_build(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container may still be writing: the cell waits until the engine says that it is gone."""
    bench.run(REMEMBER, cache=CACHE)

    def silent(container: str) -> None:
        raise EngineUnavailable("the engine does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(bench.engine, "remove", silent)
        with pytest.raises(EngineUnavailable):
            bench.run("result('{}')\ntime.sleep(300)", cache=CACHE)
    [container] = bench.engine.list()
    bench.builds.recover()
    assert shelf(bench) == []
    assert len(list((bench.folder / "builds").iterdir())) == 1
    bench.engine.remove(container.id)
    bench.builds.recover()
    assert bench.run(REMEMBER, cache=CACHE).result["before"] == ["mark-0"]


def test_a_container_that_does_not_go_away_keeps_its_cell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(bench.engine, "remove", lambda container: None)
        with pytest.raises(EngineUnavailable, match="cannot be removed"):
            bench.run("result('{}')\ntime.sleep(300)", cache=CACHE)
    assert shelf(bench) == []
    [container] = bench.engine.list()
    bench.engine.remove(container.id)
    bench.builds.recover()
    assert shelf(bench) == ["dependencies.0"]


def test_old_stores_are_thrown_away_and_no_link_in_them_is_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    for scope, path in (("shared", "cache/x"), ("bob", "new/y")):
        (bench.folder / "environments" / scope / "store" / path).mkdir(parents=True)
    (bench.folder / "environments" / "bob" / "store" / "cache").symlink_to(tmp_path / "target")
    (bench.folder / "environments" / "eve").mkdir()
    (bench.folder / "environments" / "eve" / "store").symlink_to(tmp_path / "target")
    bench.builds.recover()
    assert list((bench.folder / "environments").glob("*/store")) == []
    Trash(bench.folder / "trash").empty()
    assert (tmp_path / "target" / "file").exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("point", "ran"),
    [
        ("controller.cell.made", False),
        ("controller.cell.lent", False),
        ("controller.build.created", False),
        ("controller.build.started", True),
        ("controller.build.ended", True),
        ("controller.cell.returned", True),
    ],
)
def test_a_controller_killed_in_a_build_loses_no_package_cache(bench: Bench, point: str, ran: bool) -> None:
    """Its successor takes nothing while the container may write, and finds the cache where the builds left it."""
    bench.run(REMEMBER, cache=CACHE)
    program = (
        "import sys; sys.path[:0] = sys.argv[3].split(':')\n"
        "from pathlib import Path\nfrom ci_runner.controller.environments.builds import Build\n"
        "from integration.controller.test_builds import CACHE, PYTHON, Bench\n"
        "bench = Bench(Path(sys.argv[1]), install=sys.argv[2])\n"
        "build = Build('job', 1, 'host', PYTHON, (), CACHE, may_build=False, cwd='/')\n"
        "with bench.builds.run(build, bench.tools, log=print, stopping=lambda: False): pass\n"
    )
    tests = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", program, str(bench.folder), bench.engine.install, f"{tests}:{tests.parent}"],
        env={**os.environ, "CI_RUNNER_ALLOW_FAILPOINTS": "1", "CI_RUNNER_FAILPOINTS": f"{point}=kill"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((bench.folder / "builds").iterdir())) == 1
    orphans = bench.engine.list()
    bench.builds.recover()
    if orphans:
        assert shelf(bench) == []
        assert len(list((bench.folder / "builds").iterdir())) == 1
        if ran:
            marks = bench.folder / "builds"
            wait_until(lambda: list(marks.glob("*/spool/result.json")), 30, what="the end of the orphan")
    for seen in orphans:  # as `reconcile` does
        bench.engine.remove(seen.id)
    bench.builds.recover()
    assert list((bench.folder / "builds").iterdir()) == []
    expected = ["mark-0", "mark-1"] if ran else ["mark-0"]
    assert bench.run(REMEMBER, cache=CACHE).result["before"] == expected
