"""The contract that every engine keeps (`ci_runner.controller.engine`)."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support.engines import (
    ENDS,
    EXITS_7,
    FOREVER,
    IGNORES_TERM,
    READY,
    STOPS_ON_TERM,
    Behaviour,
    Kit,
    kit_for,
)
from support.waiting import wait_until

from ci_runner.controller.cleanup.open_files import unnamed_bytes
from ci_runner.controller.engine import SPOOL, Bind, Footprint, ImageBuild, ServiceSpec
from ci_runner.controller.engines.memory import Output, Script
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError

ENGINES = [
    pytest.param("memory", id="memory"),
    pytest.param("process", id="process"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(params=ENGINES)
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    with kit_for(request.param, tmp_path) as kit:
        yield kit


@pytest.fixture
def programs(kit: Kit) -> Kit:
    """Only engines that run programs."""
    if not kit.runs_programs:
        pytest.skip("the engine runs no programs")
    return kit


# -- life
def test_a_container_runs_to_its_end_and_tells_its_exit_code(kit: Kit) -> None:
    container_id = kit.engine.create(kit.spec(EXITS_7))
    created = kit.engine.inspect(container_id)
    assert created is not None
    assert (created.state, created.exit_code, created.started_at) == ("created", None, None)
    kit.engine.start(container_id)
    seen = kit.ended(container_id)
    assert (seen.exit_code, seen.oom_killed, seen.error) == (7, False, None)
    assert seen.started_at is not None
    assert seen.finished_at is not None
    assert seen.started_at <= seen.finished_at


def test_what_is_observed_names_the_job(kit: Kit) -> None:
    spec = kit.spec(ENDS, attempt=3, role="build")
    container_id = kit.engine.create(spec)
    (seen,) = kit.engine.list()
    assert (seen.id, seen.name, seen.role, seen.job_id, seen.attempt) == (
        container_id,
        spec.name,
        "build",
        spec.job_id,
        3,
    )


def test_a_listed_container_that_ended_has_its_exit_code(kit: Kit) -> None:
    container_id = kit.launch(EXITS_7)
    kit.ended(container_id)
    assert [(seen.state, seen.exit_code) for seen in kit.engine.list()] == [("exited", 7)]
    assert [(seen.state, seen.exit_code) for seen in kit.engine.list()] == [("exited", 7)]


def test_a_running_container_is_listed_as_running(kit: Kit) -> None:
    container_id = kit.launch(FOREVER)
    kit.ready()
    assert [(seen.id, seen.state, seen.exit_code) for seen in kit.engine.list()] == [
        (container_id, "running", None)
    ]


def test_creating_the_same_name_again_adopts_the_container(kit: Kit) -> None:
    spec = kit.spec(FOREVER)
    first = kit.engine.create(spec)
    kit.engine.start(first)
    assert kit.engine.create(spec) == first
    assert len(kit.engine.list()) == 1


def test_a_name_that_another_job_has_is_not_adopted(kit: Kit) -> None:
    spec = kit.spec(ENDS)
    kit.engine.create(spec)
    with pytest.raises(PermanentError, match="is used by something else"):
        kit.engine.create(dataclasses.replace(spec, attempt=2))


def test_starting_twice_is_harmless(kit: Kit) -> None:
    container_id = kit.launch(STOPS_ON_TERM)
    kit.ready()
    kit.engine.start(container_id)
    kit.engine.signal(container_id, "TERM")
    assert kit.ended(container_id).exit_code == 5
    kit.engine.start(container_id)
    assert kit.ended(container_id).exit_code == 5


def test_starting_what_is_gone_is_a_permanent_error(kit: Kit) -> None:
    container_id = kit.engine.create(kit.spec(ENDS))
    kit.engine.remove(container_id)
    with pytest.raises(PermanentError):
        kit.engine.start(container_id)


# -- signals
def test_a_main_process_can_handle_term(kit: Kit) -> None:
    container_id = kit.launch(STOPS_ON_TERM)
    kit.ready()
    kit.engine.signal(container_id, "TERM")
    assert kit.ended(container_id).exit_code == 5


def test_kill_ends_what_ignores_term(kit: Kit) -> None:
    container_id = kit.launch(IGNORES_TERM)
    kit.ready()
    kit.engine.signal(container_id, "TERM")
    seen = kit.engine.inspect(container_id)
    assert seen is not None
    assert seen.state == "running"
    kit.engine.signal(container_id, "KILL")
    seen = kit.ended(container_id)
    assert (seen.exit_code, seen.oom_killed) == (137, False)


def test_kill_ends_the_whole_tree(programs: Kit) -> None:
    tree = (
        "(trap '' TERM; setsid sh -c \"trap '' TERM HUP; while :; do "
        'echo x >>/ci/spool/alive; sleep 0.05; done") & '
    )
    container_id = programs.launch(Behaviour(tree + READY + "exec sleep 600"))
    programs.ready()
    alive = programs.spool() / "alive"
    wait_until(alive.exists, what="the grandchild")
    programs.engine.signal(container_id, "KILL")
    programs.ended(container_id)
    size = alive.stat().st_size
    finished = threading.Event()
    finished.wait(0.3)
    assert alive.stat().st_size == size


def test_daemons_do_not_outlive_the_main_process(programs: Kit) -> None:
    daemon = "setsid sh -c 'while :; do echo x >>/ci/spool/alive; sleep 0.05; done' & "
    container_id = programs.launch(Behaviour(daemon + "sleep 0.2; exit 3"))
    assert programs.ended(container_id).exit_code == 3
    alive = programs.spool() / "alive"
    size = alive.stat().st_size if alive.exists() else 0
    threading.Event().wait(0.3)
    assert (alive.stat().st_size if alive.exists() else 0) == size


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_signal_to_what_is_over_or_gone_is_harmless(kit: Kit, signal: Literal["TERM", "KILL"]) -> None:
    container_id = kit.launch(EXITS_7)
    kit.ended(container_id)
    kit.engine.signal(container_id, signal)
    assert kit.ended(container_id).exit_code == 7
    kit.engine.remove(container_id)
    kit.engine.signal(container_id, signal)


def test_a_signal_before_the_start_is_harmless(kit: Kit) -> None:
    container_id = kit.engine.create(kit.spec(FOREVER))
    kit.engine.signal(container_id, "KILL")
    seen = kit.engine.inspect(container_id)
    assert seen is not None
    assert seen.exit_code is None


# -- removal
def test_removing_a_running_container_ends_it(kit: Kit) -> None:
    container_id = kit.launch(IGNORES_TERM)
    kit.ready()
    kit.engine.remove(container_id)
    assert kit.engine.inspect(container_id) is None
    assert kit.engine.list() == []


def test_removing_twice_is_harmless(kit: Kit) -> None:
    container_id = kit.launch(ENDS)
    kit.engine.remove(container_id)
    kit.engine.remove(container_id)


@pytest.mark.case(86)
def test_what_is_gone_has_no_output_and_is_not_observed(kit: Kit) -> None:
    container_id = kit.launch(ENDS)
    kit.engine.remove(container_id)
    assert kit.engine.inspect(container_id) is None
    assert kit.engine.output(container_id) == ""


def test_a_removed_name_can_be_created_again(kit: Kit) -> None:
    spec = kit.spec(EXITS_7)
    first = kit.engine.create(spec)
    kit.engine.remove(first)
    second = kit.engine.create(spec)
    kit.engine.start(second)
    assert kit.ended(second).exit_code == 7


# -- whose
@pytest.mark.case(85)
def test_containers_of_another_install_are_invisible(kit: Kit) -> None:
    container_id = kit.engine.create(kit.spec(FOREVER))
    other = kit.make("f" * 12)
    try:
        assert container_id not in [seen.id for seen in other.list()]
        assert other.sweep(frozenset()) == 0
    finally:
        other.close()
    assert [seen.id for seen in kit.engine.list()] == [container_id]


def test_a_name_that_another_install_has_is_not_adopted(kit: Kit) -> None:
    if kit.install_is_separate:
        pytest.skip("installs of this engine share nothing, names included")
    spec = kit.spec(ENDS)
    kit.engine.create(spec)
    other = kit.make("e" * 12)
    try:
        with pytest.raises(PermanentError, match="is used by something else"):
            other.create(spec)
    finally:
        other.close()


# -- what can go wrong
def test_a_missing_source_is_a_permanent_error_and_is_not_made(kit: Kit) -> None:
    missing = kit.folder / "missing"
    with pytest.raises(PermanentError) as caught:
        kit.engine.create(kit.spec(ENDS, binds=(Bind(missing, "/data"),)))
    assert "/data" in str(caught.value)
    assert str(kit.folder) not in str(caught.value)
    assert not missing.exists()
    assert kit.engine.list() == []


@pytest.mark.parametrize("where", ["itself", "on the way"])
@pytest.mark.parametrize("part", ["bind", "lower", "upper", "work"])
def test_a_source_that_is_reached_through_a_link_is_not_mounted(kit: Kit, part: str, where: str) -> None:
    overlay = kit.overlay()
    real = kit.new_folder("real/inner").parent
    link = kit.folder / "link"
    link.symlink_to(real / "inner" if where == "itself" else real)
    source = link if where == "itself" else link / "inner"
    changes: dict[str, Any] = {"overlay": overlay}
    if part == "bind":
        changes["binds"] = (Bind(source, "/workspace"),)
        del changes["overlay"]
    elif part == "lower":
        changes["overlay"] = dataclasses.replace(overlay, lowers=(overlay.lowers[0], source))
    else:
        part_of_overlay: dict[str, Any] = {part: source}
        changes["overlay"] = dataclasses.replace(overlay, **part_of_overlay)
    with pytest.raises(
        PermanentError, match="the source of mount /workspace is reached through a link"
    ) as caught:
        kit.engine.create(kit.spec(ENDS, **changes))
    assert str(kit.folder) not in str(caught.value)
    assert kit.engine.list() == []


def test_a_source_that_was_replaced_is_not_mounted(kit: Kit) -> None:
    folder = kit.new_folder("data")
    found = folder.stat()
    spec = kit.spec(ENDS, binds=(Bind(folder, "/data"),), known={folder: (found.st_dev, found.st_ino)})
    folder.rename(kit.folder / "away")
    kit.new_folder("data")
    with pytest.raises(PermanentError, match="the source of mount /data was replaced") as caught:
        kit.engine.create(spec)
    assert str(kit.folder) not in str(caught.value)


def test_only_folders_and_files_are_mounted(kit: Kit) -> None:
    os.mkfifo(kit.folder / "pipe")
    with pytest.raises(PermanentError, match="the source of mount /data is neither"):
        kit.engine.create(kit.spec(ENDS, binds=(Bind(kit.folder / "pipe", "/data"),)))


def test_a_missing_layer_is_a_permanent_error(kit: Kit) -> None:
    overlay = kit.overlay()
    overlay = dataclasses.replace(overlay, lowers=(*overlay.lowers, kit.folder / "missing"))
    with pytest.raises(PermanentError):
        kit.engine.create(kit.spec(ENDS, overlay=overlay))


def test_a_command_that_cannot_start_says_so(kit: Kit) -> None:
    behaviour = Behaviour("unused", Script(start_error="no-such-program: not found"))
    argv = ("/no-such-program", "unused")
    container_id = kit.engine.create(kit.spec(behaviour, argv=argv))
    refusal = ""
    try:
        kit.engine.start(container_id)
    except PermanentError as error:
        refusal = str(error)
    if refusal:
        seen = kit.engine.inspect(container_id)
        assert seen is not None
        assert "could not be started" in refusal
        assert "no-such-program" in (seen.error or "")
    else:
        seen = kit.ended(container_id)
        assert "no-such-program" in kit.engine.output(container_id)
    assert seen.exit_code == 127
    assert [(listed.error, listed.exit_code) for listed in kit.engine.list()] == [(seen.error, 127)]


def test_an_unknown_image_names_itself_and_the_way_out(programs: Kit) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        programs.engine.image("no-such-image-anywhere:1", pull=False)
    assert "no-such-image-anywhere:1" in str(caught.value)


def test_an_image_has_an_id_and_knows_its_pythons(kit: Kit) -> None:
    image = kit.engine.image(kit.image)
    assert image.id
    assert image.reference == kit.image
    assert "3.11" in image.pythons
    assert kit.engine.image(kit.image) == image


def test_an_engine_that_does_not_answer_is_unavailable(kit: Kit) -> None:
    engine = kit.unreachable()
    if engine is None:
        pytest.skip("the engine is this very process")
    try:
        for call in (
            engine.list,
            engine.probe,
            lambda: engine.inspect("x"),
            lambda: engine.image("x"),
            lambda: engine.start("x"),
            lambda: engine.signal("x", "TERM"),
            lambda: engine.remove("x"),
            lambda: engine.output("x"),
            lambda: engine.sweep(frozenset()),
            lambda: engine.create(dataclasses.replace(kit.spec(ENDS), network="none")),
        ):
            with pytest.raises(EngineUnavailable):
                call()
    finally:
        engine.close()


# -- mounts
def test_appended_bytes_are_visible_at_once(kit: Kit) -> None:
    behaviour = Behaviour(
        "echo one >>/ci/spool/stdout; sleep 0.3; echo two >>/ci/spool/stdout; exec sleep 600",
        Script(exit_after=None, output=(Output(b"one\n"), Output(b"two\n", 0.3))),
    )
    kit.launch(behaviour)
    stdout = kit.spool() / "stdout"
    wait_until(lambda: stdout.exists() and stdout.read_bytes() == b"one\n", what="the first line")
    wait_until(lambda: stdout.read_bytes() == b"one\ntwo\n", what="the second line")


def test_the_overlay_shows_the_layers_and_keeps_writes_apart(programs: Kit) -> None:
    overlay = programs.overlay()
    script = (
        "set -e; cat both.txt kept.txt >/ci/spool/stdout; ./folder/run.sh >>/ci/spool/stdout; "
        "echo new >new.txt; echo more >>kept.txt; rm doomed.txt; "
        "test ! -e doomed.txt; mkdir -p a/b; mv folder/run.sh a/b/"
    )
    container_id = programs.launch(Behaviour(script), overlay=overlay, cwd="/workspace")
    assert programs.ended(container_id).exit_code == 0
    assert (programs.spool() / "stdout").read_text() == "top\nbottom\nran\n"
    assert (overlay.upper / "new.txt").read_text() == "new\n"
    assert (overlay.upper / "kept.txt").read_text() == "bottom\nmore\n"
    assert (overlay.upper / "a" / "b" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (overlay.lowers[1] / "kept.txt").read_text() == "bottom\n"
    assert (overlay.lowers[1] / "doomed.txt").exists()
    assert (overlay.lowers[1] / "folder" / "run.sh").exists()


def test_the_upper_folder_outlives_the_container(programs: Kit) -> None:
    overlay = programs.overlay()
    container_id = programs.launch(Behaviour("echo kept >result"), overlay=overlay, cwd="/workspace")
    programs.ended(container_id)
    programs.engine.remove(container_id)
    assert (overlay.upper / "result").read_text() == "kept\n"
    assert programs.engine.sweep(frozenset()) == 0


def test_a_read_only_bind_cannot_be_written(programs: Kit) -> None:
    if not programs.isolates:
        pytest.skip("the engine does not isolate")
    data = programs.new_folder("data")
    (data / "file").write_text("mine\n")
    programs.own(data)
    script = "cat /data/file >/ci/spool/stdout; echo x >>/data/file || echo x >/data/new || exit 9"
    container_id = programs.launch(Behaviour(script), binds=(*programs.spec(ENDS).binds, Bind(data, "/data")))
    assert programs.ended(container_id).exit_code == 9
    assert [path.name for path in data.iterdir()] == ["file"]
    assert (data / "file").read_text() == "mine\n"


def test_a_single_file_can_be_bound(programs: Kit) -> None:
    file = programs.new_folder("data") / "file"
    file.write_text("content\n")
    programs.own(file.parent)
    binds = (*programs.spec(ENDS).binds, Bind(file, "/data/some-file"))
    container_id = programs.launch(Behaviour("cat /data/some-file >/ci/spool/stdout"), binds=binds)
    assert programs.ended(container_id).exit_code == 0
    assert (programs.spool() / "stdout").read_text() == "content\n"


# -- traces on this machine
def test_only_a_running_container_has_processes(kit: Kit) -> None:
    container_id = kit.engine.create(kit.spec(FOREVER))
    assert kit.engine.footprint(container_id) == Footprint()
    assert kit.engine.footprint("0" * 64) == Footprint()
    kit.engine.start(container_id)
    kit.engine.signal(container_id, "KILL")
    kit.ended(container_id)
    assert kit.engine.footprint(container_id) == Footprint()
    kit.engine.remove(container_id)
    assert kit.engine.footprint(container_id) == Footprint()


def test_deleted_files_are_found_by_the_processes_of_a_container(programs: Kit) -> None:
    writes = "exec 3>/ci/spool/gone; head -c 3000000 /dev/zero >&3; rm /ci/spool/gone; "
    container_id = programs.launch(
        Behaviour(f"(setsid sh -c '{writes}{READY}exec sleep 600' &) ; exec sleep 600")
    )
    programs.ready()
    found = programs.engine.footprint(container_id)
    assert os.getpid() not in found.processes
    assert 3_000_000 <= sum(unnamed_bytes(found.processes)) < 3_200_000
    assert sum(unnamed_bytes([os.getpid()])) < 1_000_000
    assert sum(1 for folder in found.folders if folder.is_dir()) == (0 if programs.isolates else 1)


# -- literalness
def test_arguments_environment_and_folder_arrive_literally(programs: Kit) -> None:
    weird = ["", " ", "a b", "$HOME", "`id`", "*", "'\"", "\\n", "line\nbreak", "--flag=x", "ümläut", "a=b;c"]
    program = (
        "import json,os,sys;json.dump([sys.argv[2:],os.environ['WEIRD'],os.getcwd()],open(sys.argv[1],'w'))"
    )
    overlay = programs.overlay("/some where/ünd so")
    python = "python3"
    spec = programs.spec(
        ENDS,
        argv=(python, "-c", program, SPOOL + "/got.json", *weird),
        env={"WEIRD": "\n".join(weird)},
        overlay=overlay,
        cwd="/some where/ünd so/folder",
    )
    container_id = programs.engine.create(spec)
    programs.engine.start(container_id)
    assert programs.ended(container_id).exit_code == 0
    argv, env, cwd = json.loads((programs.spool() / "got.json").read_text())
    assert argv == weird
    assert env == "\n".join(weird)
    assert cwd.endswith("/folder")


def test_a_home_of_its_own_is_there_and_writable(programs: Kit) -> None:
    script = (
        'echo x >"$HOME/file" && echo x >"${TMPDIR:-/tmp}/file" && test "$USER" && test "$GREETING" = hello'
    )
    container_id = programs.launch(Behaviour(script))
    assert programs.ended(container_id).exit_code == 0


# -- hints, threads, tidiness
def test_a_watcher_is_woken_when_a_container_changes(kit: Kit) -> None:
    woken = threading.Event()
    kit.engine.watch(woken.set)
    container_id = kit.launch(STOPS_ON_TERM)
    kit.ready()
    assert woken.wait(10)
    wait_until(lambda: _quiet(woken), what="silence")
    kit.engine.signal(container_id, "TERM")
    assert woken.wait(10)
    kit.ended(container_id)


def _quiet(woken: threading.Event) -> bool:
    woken.clear()
    return not woken.wait(0.3)


def test_two_threads_that_create_the_same_name_get_one_container(kit: Kit) -> None:
    spec = kit.spec(FOREVER)
    ids: list[str] = []
    barrier = threading.Barrier(4)

    def create() -> None:
        barrier.wait()

        def attempt() -> str | None:
            try:
                return kit.engine.create(spec)
            except EngineUnavailable:
                return None  # the name is reserved, the container not yet visible: temporary

        ids.append(wait_until(attempt, what="a container"))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert len(kit.engine.list()) == 1


def test_many_threads_can_run_containers_at_once(kit: Kit) -> None:
    codes: dict[int, int | None] = {}

    def run(number: int) -> None:
        behaviour = Behaviour(f"exit {number}", Script(exit_code=number, exit_after=0.05))
        container_id = kit.launch(behaviour, f"job{number}")
        codes[number] = kit.ended(container_id, 60).exit_code
        kit.engine.remove(container_id)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {1: 1, 2: 2, 3: 3, 4: 4}
    assert kit.engine.list() == []


def test_the_containers_output_is_kept_for_the_post_mortem(programs: Kit) -> None:
    container_id = programs.launch(Behaviour("echo to-stdout; echo to-stderr >&2; exit 1"))
    programs.ended(container_id)
    text = programs.engine.output(container_id)
    assert "to-stdout" in text
    assert "to-stderr" in text
    assert programs.engine.output(container_id, limit=5).strip()
    assert len(programs.engine.output(container_id, limit=5)) <= 5


def test_a_second_engine_of_the_same_install_finds_everything(kit: Kit) -> None:
    if not kit.runs_programs:
        pytest.skip("the engine persists nothing")
    spec = kit.spec(STOPS_ON_TERM)
    container_id = kit.engine.create(spec)
    kit.engine.start(container_id)
    kit.ready()
    kit.engine.close()
    successor = kit.make(kit.install)
    kit.engine = successor
    (seen,) = successor.list()
    assert (seen.id, seen.state, seen.job_id) == (container_id, "running", spec.job_id)
    assert successor.create(spec) == container_id
    successor.signal(container_id, "TERM")
    assert kit.ended(container_id).exit_code == 5


def test_sweeping_leaves_containers_and_what_they_use(programs: Kit) -> None:
    container_id = programs.launch(FOREVER, overlay=programs.overlay(), cwd="/workspace")
    programs.ready()
    assert programs.engine.sweep(frozenset()) == 0
    assert [seen.state for seen in programs.engine.list()] == ["running"]
    programs.engine.remove(container_id)


def test_the_probe_says_what_the_engine_is(kit: Kit) -> None:
    probe = kit.engine.probe()
    assert probe.version
    assert probe.isolates is kit.isolates
    assert probe.usable, probe.problems


def test_closing_twice_is_harmless(kit: Kit) -> None:
    kit.engine.watch(lambda: None)
    kit.engine.close()
    kit.engine.close()
    kit.engine = kit.make(kit.install)


# -- services
def service(kit: Kit, name: str, argv: tuple[str, ...], **changes: Any) -> ServiceSpec:
    """A service of the job that `kit.spec` makes."""
    spec = kit.spec(FOREVER)
    fields: dict[str, Any] = {
        "name": f"{spec.name}-s-{name}",
        "image_id": spec.image_id,
        "job_id": spec.job_id,
        "command": argv,
        "limits": spec.limits,
        "network": "none",
    }
    return ServiceSpec(**{**fields, **changes})


@pytest.fixture
def serving(kit: Kit) -> Kit:
    """Only engines that run services."""
    if not kit.runs_services:
        with pytest.raises(PermanentError, match="services need a container engine"):
            kit.engine.create_service(service(kit, "db", ("sleep", "600")))
        assert kit.engine.execute("nobody", ("true",)) is None
        pytest.skip("the engine runs no services")
    return kit


def test_a_service_is_adopted_and_observed_as_the_job_s(serving: Kit) -> None:
    spec = service(serving, "db", ("sh", "-c", FOREVER.shell))
    container_id = serving.engine.create_service(spec)
    assert serving.engine.create_service(spec) == container_id
    serving.engine.start(container_id)
    (seen,) = serving.engine.list()
    assert (seen.role, seen.job_id, seen.attempt, seen.state) == ("service", spec.job_id, 0, "running")
    assert serving.engine.execute(container_id, ("true",)) == 0
    serving.engine.remove(container_id)
    assert serving.engine.execute(container_id, ("true",)) is None
    assert serving.engine.list() == []


def test_a_job_reaches_its_services_by_name_and_nobody_else_does(serving: Kit) -> None:
    if not serving.runs_programs:
        pytest.skip("the engine runs no programs")
    server = ("python3", "-u", "-m", "http.server", "8123")
    first = serving.engine.create_service(service(serving, "web", server, hosts=("web", "other")))
    serving.engine.start(first)
    second = serving.engine.create_service(service(serving, "other", ("sleep", "600"), join=first))
    serving.engine.start(second)
    ask = "import urllib.request; print(urllib.request.urlopen('http://web:8123/').status)"

    def answers() -> bool:
        return serving.engine.execute(second, ("python3", "-c", ask)) == 0

    wait_until(answers, what="a service to answer another")
    job = serving.spec(Behaviour(f'python3 -c "{ask}" >>/ci/spool/stdout'), join=first)
    alone = serving.spec(Behaviour(f'python3 -c "{ask}"'), "alone", job_id="another")
    codes = []
    for spec in (job, alone):
        container_id = serving.engine.create(spec)
        serving.engine.start(container_id)
        codes.append(serving.ended(container_id).exit_code)
    assert codes == [0, 1]
    assert (serving.spool() / "stdout").read_text() == "200\n"


def test_what_services_write_is_told_by_job(serving: Kit) -> None:
    if not serving.runs_programs:
        pytest.skip("the engine runs no programs")
    assert serving.engine.written_by_services() == {}
    first = service(serving, "db", ("sleep", "600"))
    ids = [serving.engine.create_service(first)]
    serving.engine.start(ids[0])
    other = service(serving, "cache", ("sleep", "600"), join=ids[0])
    ids.append(serving.engine.create_service(other))
    serving.engine.start(ids[1])
    assert serving.engine.written_by_services()[first.job_id] < 1 << 20
    for container_id in ids:
        assert serving.engine.execute(container_id, ("sh", "-c", "head -c 3000000 /dev/zero >/big")) == 0
    written = serving.engine.written_by_services()
    assert 6_000_000 <= written[first.job_id] < 7_000_000
    assert written.keys() == {first.job_id}


def test_a_service_may_become_another_user_and_nothing_more(serving: Kit) -> None:
    if not serving.runs_programs:
        pytest.skip("the engine runs no programs")
    keep = service(serving, "db", ("sleep", "600"))
    container_id = serving.engine.create_service(keep)
    serving.engine.start(container_id)
    becomes = "mkdir /data && chown 999:999 /data && exec setpriv --reuid 999 --regid 999 --clear-groups touch /data/x"
    assert serving.engine.execute(container_id, ("sh", "-c", becomes)) == 0
    for forbidden in ("mount -t tmpfs none /mnt", "mknod /x b 8 0", "chroot / true"):
        assert serving.engine.execute(container_id, ("sh", "-c", forbidden)) not in (0, None), forbidden


@pytest.fixture
def imaging(kit: Kit) -> Kit:
    """Only engines that build images."""
    if not kit.runs_services:
        spec = kit.spec(FOREVER)
        with pytest.raises(PermanentError, match="system packages need a container engine"):
            kit.engine.create_image_build(ImageBuild("build", spec.image_id, spec.job_id, 1))
        assert kit.engine.run_as_root("nobody", ("true",), {}, lambda piece: None) is None
        assert kit.engine.derived_images() == frozenset()
        assert kit.engine.remove_image("sha256:0")
        with pytest.raises(PermanentError):
            kit.engine.commit("nobody", kit.engine.image(kit.image), "nothing")
        pytest.skip("the engine builds no images")
    return kit


def test_an_image_is_made_of_what_root_changes(imaging: Kit) -> None:
    engine, base = imaging.engine, imaging.engine.image(imaging.image)
    spec = ImageBuild(f"eng-{imaging.install}-image", base.id, "job", 1, limits=imaging.spec(FOREVER).limits)
    container_id = engine.create_image_build(spec)
    assert engine.create_image_build(spec) == container_id
    assert engine.run_as_root(container_id, ("true",), {}, lambda piece: None) is None
    engine.start(container_id)
    (seen,) = engine.list()
    assert (seen.role, seen.job_id, seen.attempt, seen.state) == ("build", "job", 1, "running")
    written: list[bytes] = []
    command = ("sh", "-c", "echo $WORD >/word; id -u; echo done >&2; exit 3")
    code = engine.run_as_root(container_id, command, {"WORD": "made"}, written.append)
    if imaging.runs_programs:
        # Two streams, in any order.
        assert (code, sorted(b"".join(written).split())) == (3, [b"0", b"done"])
        assert engine.run_as_root(container_id, ("no-such-program",), {}, written.append) in (126, 127)
    engine.signal(container_id, "KILL")
    image = engine.commit(container_id, base, "a word")
    engine.remove(container_id)
    assert engine.run_as_root(container_id, ("true",), {}, written.append) is None
    assert engine.derived_images() == {image.id}
    assert engine.image(image.id, pull=False).pythons == base.pythons
    if imaging.runs_programs:
        text = 'test $(cat /word) = made && test -z "$WORD" && test $(id -u) != 0'
        job = imaging.launch(Behaviour(text), image_id=image.id)
        assert imaging.ended(job).exit_code == 0
        assert not engine.remove_image(image.id)  # in use
        engine.remove(job)
    assert engine.remove_image(image.id)
    assert engine.remove_image(image.id)
    assert engine.derived_images() == frozenset()
    with pytest.raises(ImageUnavailable):
        engine.image(image.id, pull=False)
