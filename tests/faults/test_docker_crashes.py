"""`kill -9` of `serve`, `reconcile` and the client on a real Docker engine loses, repeats and leaves nothing."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator

import pytest
from faults.crash_project import LINES, OPTIONS, PATIENCE, Crashing, check_lines, numbers_in
from support.waiting import wait_until

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def crashing(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    made = Crashing(tmp_path_factory.mktemp("crashing"), docker_engine)
    try:
        made.runner.start()
        made.check(made.submit(made.project()))  # from here on the environment is there
        yield made
    finally:
        made.runner.close()


@pytest.fixture(autouse=True)
def both_run(crashing: Crashing) -> Iterator[None]:
    """Every test begins with both programs, and without failpoints."""
    yield
    for program in ("serve", "reconcile"):
        if program not in crashing.runner.processes:
            crashing.restart(program)


# -- serve
@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "point",
    [
        "server.submit.received",
        "blobs.batch.synced",
        "server.submit.stored",
        "store.jobs.create.before",
        "server.submit.committed",
    ],
)
def test_serve_killed_while_a_job_is_submitted(crashing: Crashing, point: str) -> None:
    """The client tries again under the same Idempotency-Key and gets the one job."""
    before, key = len(crashing.jobs()), uuid.uuid4().hex
    crashing.restart("serve", f"{point}=kill")
    project = crashing.project()
    followed = crashing.follow(project, key=key)
    crashing.until_dead("serve")
    crashing.restart("serve")
    wait_until(lambda: followed.job_id, PATIENCE, what="an answer")
    crashing.check(followed.job_id, followed)
    assert crashing.submit(project, key) == followed.job_id
    assert len(crashing.jobs()) == before + 1
    assert crashing.starts(followed.job_id) == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("hit", [1, 2, 5, 9, 14])
def test_serve_killed_while_it_streams(crashing: Crashing, hit: int) -> None:
    crashing.restart("serve", f"server.stream.pulled=kill@{hit}")
    followed = crashing.follow(crashing.project())
    crashing.until_dead("serve")
    crashing.restart("serve")
    crashing.check(followed.job_id, followed)
    assert crashing.starts(followed.job_id) == 1


# -- reconcile
@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "point",
    [
        "controller.claim.before",
        "controller.claim.after",
        "controller.tree.published",
        "controller.launch.created",
        "controller.launch.started",
        "controller.follow.before@5",
        "store.events.append.after@5",
        "controller.follow.drained",
        "controller.finish.before",
        "controller.finish.after",
        "controller.remove.removed",
    ],
)
def test_reconcile_killed(crashing: Crashing, point: str) -> None:
    name, _, hit = point.partition("@")
    crashing.restart("reconcile", f"{name}=kill@{hit or 1}")
    followed = crashing.follow(crashing.project())
    crashing.until_dead("reconcile")
    crashing.restart("reconcile")
    crashing.check(followed.job_id, followed)
    assert crashing.starts(followed.job_id) == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("point", "wanted"),
    [
        ("controller.cell.made", "pytest"),
        ("controller.cell.lent", "pytest"),
        ("controller.build.created", "pytest"),
        ("controller.build.started", "pytest"),
        ("controller.build.ended", "pytest"),
        ("controller.cell.returned", "pytest"),
        # Reached only with an environment that is not there yet.
        ("controller.environment.staged", "pytest\nsix==1.16.0"),
        ("controller.environment.published", "pytest\nsix==1.17.0"),
    ],
)
def test_reconcile_killed_while_it_builds(crashing: Crashing, point: str, wanted: str) -> None:
    crashing.restart("reconcile", f"{point}=kill")
    followed = crashing.follow(crashing.project(requirements=f"{wanted}\n# {uuid.uuid4()}\n"))
    crashing.until_dead("reconcile")
    crashing.restart("reconcile")
    crashing.check(followed.job_id, followed)
    assert crashing.starts(followed.job_id) == 1


def test_nothing_of_a_dead_controller_s_builds_is_left(crashing: Crashing) -> None:
    """What they had borrowed is given back, and their cells go, once their containers are gone."""
    data = crashing.runner.data_dir
    wait_until(lambda: not list((data / "builds").iterdir()), 180, what="the end of all cells")
    caches = list((data / "environments").glob("*/cache/*"))
    assert caches
    assert all(list(cache.iterdir()) for cache in caches)


def test_a_job_that_ends_while_no_controller_runs(crashing: Crashing) -> None:
    crashing.restart("reconcile", "controller.follow.after=kill@5")
    followed = crashing.follow(crashing.project())
    crashing.until_dead("reconcile")
    wait_until(lambda: crashing.running(followed.job_id) == [], PATIENCE, what="the container's end")
    crashing.restart("reconcile")
    crashing.check(followed.job_id, followed)


# -- the client
def attached(crashing: Crashing, job_id: str) -> None:
    """Somebody who comes back sees everything once, and the exit code."""
    done = crashing.popen(crashing.folder, "--remote-ci-attach", job_id)
    out, _ = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, out
    assert numbers_in(out) == list(range(1, LINES + 1))


HALF = """
import io, os, signal, sys
from pytest_remote_ci.client.client import Client

class Dies(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 1 << 20:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(min(size, 1 << 16) if size > 0 else size)

Client(sys.argv[1], sys.argv[2]).submit(Dies(open(sys.argv[3], "rb").read()))
"""


def test_a_client_killed_in_the_middle_of_its_upload(crashing: Crashing) -> None:
    before = len(crashing.jobs())
    project = crashing.project()
    (project / "ballast").write_bytes(uuid.uuid4().bytes + bytes(range(256)) * (8 << 10))
    archive = crashing.folder / "large.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name in ("ballast", "test_counts.py", "requirements.txt"):
            packed.write(project / name, name)
    command = [sys.executable, "-c", HALF, crashing.runner.url, crashing.runner.key, str(archive)]
    assert subprocess.run(command, cwd=crashing.folder, check=False, timeout=60).returncode == -signal.SIGKILL
    crashing.check_nothing_left()
    assert len(crashing.jobs()) == before
    crashing.check(crashing.submit(project))


@pytest.mark.parametrize("point", ["server.submit.received", "server.submit.committed"])
def test_a_client_killed_before_its_answer(crashing: Crashing, point: str) -> None:
    before, key = len(crashing.jobs()), uuid.uuid4().hex
    crashing.restart("serve", f"{point}=sleep:1")
    project = crashing.project()
    send = (
        "import sys; from pathlib import Path; from pytest_remote_ci.client.client import Client\n"
        "from pytest_remote_ci.wire.protocol import SubmitOptions\n"
        "options = SubmitOptions.from_json(sys.argv[5])\n"
        "Client(*sys.argv[1:3]).submit(Path(sys.argv[3]), options, idempotency_key=sys.argv[4])"
    )
    runner = crashing.runner
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            send,
            runner.url,
            runner.key,
            str(crashing.archive(project)),
            key,
            json.dumps(OPTIONS.to_dict()),
        ],
        cwd=crashing.folder,
    ) as process:
        crashing.until_reached(point)
        process.kill()
    jobs = wait_until(lambda: len(found := crashing.jobs()) > before and found, PATIENCE, what="the job")
    crashing.restart("serve")
    assert crashing.submit(project, key) == jobs[0]["job_id"]
    crashing.check(jobs[0]["job_id"])
    assert len(crashing.jobs()) == before + 1
    assert crashing.starts(jobs[0]["job_id"]) == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("point", "sight"),
    [
        ("controller.claim.before=sleep:1", r"Job ID: "),
        ("controller.prepare.before=sleep:1", r"Job ID: "),
        ("", r"^line 1$"),
        ("", rf"^line {LINES // 2}$"),
        ("controller.finish.before=sleep:1", rf"^line {LINES}$"),
    ],
)
def test_a_client_killed_while_it_follows(crashing: Crashing, point: str, sight: str) -> None:
    if point:
        crashing.restart("reconcile", point)
    process = crashing.popen(crashing.project())
    assert process.stdout is not None
    with process:
        seen = ""
        for line in process.stdout:
            seen += line
            if re.search(sight, seen, re.MULTILINE):
                break
        process.kill()
    found = re.search(r"Job ID: (\S+)", seen)
    assert found is not None, seen
    attached(crashing, found[1])
    crashing.check(found[1])
    attached(crashing, found[1])
    assert crashing.starts(found[1]) == 1


def test_a_client_that_dies_at_any_byte_comes_back_to_the_rest(crashing: Crashing) -> None:
    """Every event is seen exactly once when what was complete before the cut counts as seen."""
    job_id = crashing.submit(crashing.project(pause=0.001))
    events = crashing.check(job_id)
    whole = stream(crashing, job_id, 0)
    assert [number for number, _ in frames(whole)] == [event["seq"] for event in events]
    step = max(1, len(whole) // 97)
    for cut in [*range(0, len(whole), step), *range(len(whole) - 40, len(whole))]:
        before = frames(whole[:cut])
        last = before[-1][0] if before else 0
        after = frames(stream(crashing, job_id, last))
        if last < len(events):  # else it is told the end again, under its number
            assert before + after == frames(whole), f"cut after {cut} bytes"
        else:
            assert after == before[-1:]
    check_lines([json.loads(data) for _, data in frames(whole)])


def stream(crashing: Crashing, job_id: str, last: int) -> bytes:
    request = urllib.request.Request(f"{crashing.runner.url}/jobs/{job_id}/stream?view=all")
    request.add_header("Authorization", f"Bearer {crashing.runner.key}")
    request.add_header("Last-Event-ID", str(last))
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        content: bytes = answer.read()
        return content


def frames(content: bytes) -> list[tuple[int, str]]:
    """Whole frames with a number: (number, data)."""
    found = re.findall(rb"^id: (\d+)\ndata: ([^\n]*)\n\n", content, re.MULTILINE)
    return [(int(number), data.decode()) for number, data in found]
