"""What only the process engine does."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.engines import ENDS, FOREVER, Behaviour, Kit, kit_for
from support.waiting import wait_until

from ci_runner.controller.engine import SPOOL, Limits
from ci_runner.controller.engines.process.supervisor import birth
from ci_runner.errors import ImageUnavailable, PermanentError


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_for("process", tmp_path) as kit:
        yield kit


def state(kit: Kit, name: str = "job") -> Path:
    return kit.folder / "processes" / kit.install / kit.spec(ENDS, name).name


def test_it_says_plainly_that_it_does_not_isolate(kit: Kit) -> None:
    probe = kit.engine.probe()
    assert not probe.isolates
    assert probe.usable
    assert "not isolated" in probe.problems[0]


@pytest.mark.parametrize("reference", ["host", "python:3.12-slim", "docker.io/library/python:3", "python"])
def test_this_machine_stands_in_for_pythons_images(kit: Kit, reference: str) -> None:
    image = kit.engine.image(reference)
    assert (image.id, image.reference) == ("host", reference)


@pytest.mark.parametrize("reference", ["debian:12", "team/python:3", "pythonista:1"])
def test_other_images_cannot_be_had(kit: Kit, reference: str) -> None:
    with pytest.raises(ImageUnavailable, match="without a container engine"):
        kit.engine.image(reference)


def test_the_job_file_says_where_things_really_are(kit: Kit) -> None:
    overlay = kit.overlay("/home/me/project")
    spec = kit.spec(ENDS, overlay=overlay)
    job = {
        "protocol": 1,
        "argv": ["x", "/home/me/project/tests"],
        "cwd": "/home/me/project",
        "env": {},
        "grace": 1,
    }
    (kit.spool() / "job.json").write_text(json.dumps(job))
    kit.engine.create(spec)
    mapped = json.loads((kit.spool() / "job.json").read_text())
    assert mapped["cwd"] == str(overlay.upper)
    assert mapped["argv"] == ["x", f"{overlay.upper}/tests"]


def test_the_runners_environment_stays_with_the_runner(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_SECRET", "s3cret")
    container_id = kit.launch(Behaviour("env >/ci/spool/stdout"))
    kit.ended(container_id)
    env = (kit.spool() / "stdout").read_text()
    assert "s3cret" not in env
    assert "GREETING=hello" in env


def test_one_file_is_bounded(kit: Kit) -> None:
    limits = Limits(file_size=4 << 20)
    script = "trap '' XFSZ; head -c 16777216 /dev/zero >/ci/spool/big; exit 3"
    container_id = kit.launch(Behaviour(script), limits=limits)
    assert kit.ended(container_id).exit_code == 3
    assert (kit.spool() / "big").stat().st_size == 4 << 20


def test_open_files_are_bounded(kit: Kit) -> None:
    limits = Limits(open_files=900, soft_open_files=800)
    container_id = kit.launch(
        Behaviour("ulimit -Sn >/ci/spool/soft; ulimit -Hn >/ci/spool/hard"), limits=limits
    )
    assert kit.ended(container_id).exit_code == 0
    assert [int((kit.spool() / name).read_text()) for name in ("soft", "hard")] == [800, 900]


def test_a_container_whose_supervisor_was_killed_is_over_and_leaves_no_process(kit: Kit) -> None:
    container_id = kit.launch(
        Behaviour(
            f"echo $$ >{SPOOL}/pid; setsid sleep 600 & echo $! >{SPOOL}/child; echo ready >{SPOOL}/stdout; wait"
        )
    )
    kit.ready()
    pids = [int((kit.spool() / name).read_text()) for name in ("pid", "child")]
    supervisor = json.loads((state(kit) / "started").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    seen = kit.ended(container_id)
    assert seen.exit_code == 255
    kit.engine.remove(container_id)
    wait_until(lambda: not any(birth(pid) for pid in pids), what="the end of the strays")


def test_a_process_with_the_supervisors_number_is_not_taken_for_it(kit: Kit) -> None:
    container_id = kit.launch(FOREVER)
    kit.ready()
    started = state(kit) / "started"
    real = json.loads(started.read_text())
    started.write_text(json.dumps({**real, "birth": "0"}))
    seen = kit.engine.inspect(container_id)
    assert seen is not None
    assert (seen.state, seen.exit_code) == ("exited", 255)
    kit.engine.signal(container_id, "TERM")
    assert birth(real["pid"]) is not None
    started.write_text(json.dumps(real))


def test_a_container_that_is_starting_is_never_taken_for_one_that_is_over(kit: Kit) -> None:
    container_id = kit.launch(FOREVER)
    kit.ready()
    started = state(kit) / "started"
    away = started.with_name("away")
    enough = threading.Event()

    def start_over_and_over() -> None:
        # As a supervisor does it: one moment it is not there, the next it is, whole.
        while not enough.is_set():
            started.rename(away)
            away.rename(started)

    thread = threading.Thread(target=start_over_and_over)
    thread.start()
    try:
        seen = {found.state for _ in range(3000) if (found := kit.engine.inspect(container_id)) is not None}
    finally:
        enough.set()
        thread.join()
    assert seen == {"created", "running"}


def test_only_one_supervisor_ever_runs_a_container(kit: Kit) -> None:
    container_id = kit.launch(Behaviour(f"echo ran >>{SPOOL}/stdout"))
    kit.ended(container_id)
    exited = (state(kit) / "exit.json").read_text()
    (state(kit) / "exit.json").unlink()
    kit.engine.start(container_id)
    (state(kit) / "exit.json").write_text(exited)
    assert (kit.spool() / "stdout").read_text() == "ran\n"


def test_what_a_crash_left_half_made_is_swept(kit: Kit) -> None:
    kit.engine.create(kit.spec(ENDS))
    folder = kit.folder / "processes" / kit.install
    for name in (".new-1", ".old-2"):
        (folder / name / "home").mkdir(parents=True)
    assert kit.engine.sweep(frozenset()) == 2
    assert len(kit.engine.list()) == 1


def test_a_name_cannot_lead_out_of_the_folder(kit: Kit) -> None:
    with pytest.raises(PermanentError):
        kit.engine.create(kit.spec(ENDS, name="job").__class__(**{**vars(kit.spec(ENDS)), "name": "../../x"}))


def test_a_folder_that_the_job_closed_is_removed_all_the_same(kit: Kit) -> None:
    container_id = kit.launch(Behaviour('mkdir "$HOME/x"; touch "$HOME/x/y"; chmod 0 "$HOME/x"'))
    kit.ended(container_id)
    kit.engine.remove(container_id)
    assert not state(kit).exists()
    assert [path.name for path in (kit.folder / "processes" / kit.install).rglob("*")] == [".trash"]


def test_what_is_too_deep_for_any_path_is_removed(kit: Kit) -> None:
    program = (
        "import os\n"
        "for place in (os.environ['HOME'], os.environ['TMPDIR']):\n"
        "    os.chdir(place)\n"
        "    for _ in range(3000): os.mkdir('d'); os.chdir('d')\n"
    )
    container_id = kit.launch(Behaviour(""), argv=("python3", "-c", program))
    assert kit.ended(container_id).exit_code == 0
    kit.engine.remove(container_id)
    assert not state(kit).exists()
    assert [path.name for path in (kit.folder / "processes" / kit.install).rglob("*")] == [".trash"]
