"""A failing command that tries to make its job pass: by what lies in the spool, by the worker's memory, by its init.

Each attack runs for real, in a container as jobs have it, under the real worker; then the controller's own functions
say what they believe of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.engines import Behaviour, Kit, kit_for
from support.waiting import wait_until

from ci_runner.controller import verdicts
from ci_runner.controller.engine import TOOLS, Bind, Observed
from ci_runner.controller.environments import worker_command
from ci_runner.controller.snapshot import Policy, SpoolResult
from ci_runner.controller.spool import reader
from ci_runner.controller.spool.reader import ExitFrame, Spool
from ci_runner.model.job import Job, utcnow
from ci_runner.model.verdict import Verdict
from pytest_remote_ci.job import worker

pytestmark = pytest.mark.docker

ATTACKS = Path(__file__).with_name("attacks.py")
#: What an attack writes to standard output: that the way in was open, or closed.
OPEN, CLOSED = "open", "closed"


@dataclass(frozen=True)
class Place:
    """What decides about a command."""

    python: str = "/usr/bin/python3"
    mount_point: str = "/workspace"
    module: bool = True


@dataclass(frozen=True)
class Outcome:
    """How an attack ended."""

    early: ExitFrame | None
    seen: Observed
    verdict: Verdict
    stdout: str


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with kit_for("docker", tmp_path_factory.mktemp("word")) as kit:
        yield kit


def attack(kit: Kit, name: str, how: str, place: Place | None = None) -> Outcome:
    """Run an attack as a job's command, to the end of its container."""
    place = place or Place()
    tools = kit.new_folder(f"{name}/tools")
    sources = Path(worker.__file__).parent
    for program in ("worker.py", "worker.sh"):
        (tools / program).write_text((sources / program).read_text())
    (tools / "attacks.py").write_text(ATTACKS.read_text())
    kit.own(tools)
    spec = kit.spec(Behaviour(""), name)
    command = ["/usr/bin/python3", f"{TOOLS}/attacks.py", how]
    description: worker_command.Description = {
        "protocol": 1,
        "argv": command,
        "cwd": "/",
        "env": {},
        "path": [],
        "grace": 5,
    }
    worker_command.write(kit.spool(name).parent, place, description, 65532)
    binds = (*spec.binds, Bind(tools, TOOLS))
    argv = (
        ("/usr/bin/python3", *worker_command.worker(place)[1:])
        if place.python
        else worker_command.worker(place)
    )
    container_id = kit.launch(Behaviour(""), name, argv=argv, binds=binds)
    spool = Spool(kit.spool(name))
    try:
        early: list[ExitFrame] = []

        def over() -> Observed | None:
            frame = reader.final_frame(spool, over=False)
            if frame is not None:
                early.append(frame)
            seen = kit.engine.inspect(container_id)
            return seen if seen is not None and seen.state in ("exited", "dead") else None

        seen = wait_until(over, 60, what="the end of a container")
        # Everything that was believed on the way has to be what is believed now.
        assert len(set(early)) <= 1, early
        last = reader.final_frame(spool, over=True)
    finally:
        spool.close()
        kit.engine.remove(container_id)
    job = Job(id="a", user_id="u", workspace="0" * 64, submitted_at=utcnow(), phase="testing")
    verdict = verdicts.ended(job, seen, SpoolResult(True, last), Policy())
    stdout = kit.spool(name) / "stdout"
    return Outcome(early[0] if early else None, seen, verdict, stdout.read_text() if stdout.is_file() else "")


#: Attack → whether the container reaches its end with the worker's own word.
WAYS = {
    "memory": True,
    "memory_of_init": True,
    "process_vm_readv": True,
    "descriptors": True,
    "pidfd_getfd": True,
    "environment": True,
    "ptrace": True,
    "guess": True,
    "replace_files": False,
    "kill_worker": False,
    "end_init": False,
    "limit_worker": False,
    "terminate_worker": True,
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_command_cannot_make_its_job_pass(kit: Kit, way: str) -> None:
    outcome = attack(kit, way, way)
    assert not outcome.verdict.success, outcome
    assert outcome.early is None or outcome.early.code == 3
    if WAYS[way]:
        assert outcome.early is not None, outcome
    if way in ("memory", "process_vm_readv", "descriptors", "pidfd_getfd", "environment", "ptrace"):
        assert outcome.stdout == CLOSED


def test_a_daemon_cannot_change_the_workers_word_after_it(kit: Kit) -> None:
    outcome = attack(kit, "rewrite", "rewrite")
    assert not outcome.verdict.success, outcome
    assert outcome.early is None or outcome.early.code == 3


def test_where_the_worker_is_a_shell_the_engine_has_to_agree(kit: Kit) -> None:
    outcome = attack(kit, "shell", "guess", Place(python=""))
    assert outcome.early is None
    assert outcome.seen.exit_code == 3
    assert not outcome.verdict.success


def test_the_key_is_nowhere_in_the_container(kit: Kit) -> None:
    outcome = attack(kit, "key", "key")
    key = (kit.spool("key").parent / "seal").read_text()
    found = json.loads(outcome.stdout)
    assert found["files"]
    assert key not in json.dumps(found)
