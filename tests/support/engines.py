"""What the engine contract needs of each engine: how to make one, its image, and its specs."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Engine, Limits, Observed, Overlay
from ci_runner.controller.engines.memory import MemoryEngine, Output, Script
from support.docker import TEST_IMAGE
from support.waiting import wait_until

#: Small, so that a runaway of a test hurts nobody.
_TMPFS = 64 << 20
LIMITS = Limits(cpus=1.0, memory=256 << 20, pids=64, tmp_size=_TMPFS, shm_size=_TMPFS, home_size=_TMPFS)


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What a container does: a shell script for engines that run programs, a `Script` for the one that does not."""

    shell: str
    script: Script = dataclasses.field(default_factory=Script)


class Kit:
    """An engine and what tests do with it."""

    #: Whether the engine runs programs (and not scripts of the test).
    runs_programs = True
    isolates = True
    runs_services = True
    #: Whether two installs cannot even see each other's names.
    install_is_separate = False

    def __init__(self, folder: Path, image: str) -> None:
        self.folder = folder
        self.image = image
        self.install = uuid.uuid4().hex[:12]
        self.engine: Engine = self.make(self.install)

    def make(self, install: str) -> Engine:
        raise NotImplementedError

    def unreachable(self) -> Engine | None:
        raise NotImplementedError

    def dispose(self) -> None:
        for seen in self.engine.list():
            self.engine.remove(seen.id)
        self.engine.close()

    def own(self, path: Path) -> Path:
        """Give a folder and what is in it to the job's user."""
        return path

    def new_folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True)
        return self.own(path)

    def spec(self, behaviour: Behaviour, name: str = "job", **changes: Any) -> ContainerSpec:
        """A container named after this test's install, with a spool."""
        job = f"{name}-{self.install}"
        spool = self.spool(name)
        if not spool.exists():
            self.new_folder(f"{name}/spool")
        spec = ContainerSpec(
            name=f"eng-{job}-1",
            image_id=self.engine.image(self.image).id,
            argv=("sh", "-c", behaviour.shell),
            role="test",
            job_id=job,
            attempt=1,
            env={"GREETING": "hello"},
            binds=(Bind(spool, SPOOL, read_only=False),),
            limits=LIMITS,
            network="none",
        )
        return dataclasses.replace(spec, **changes)

    def spool(self, name: str = "job") -> Path:
        return self.folder / name / "spool"

    def overlay(self, target: str = "/workspace") -> Overlay:
        """Two layers; the upper one has a file that the lower has too."""
        top, bottom = self.new_folder("top"), self.new_folder("bottom")
        (bottom / "kept.txt").write_text("bottom\n")
        (bottom / "both.txt").write_text("bottom\n")
        (bottom / "doomed.txt").write_text("bottom\n")
        (top / "both.txt").write_text("top\n")
        (bottom / "folder").mkdir()
        (bottom / "folder" / "run.sh").write_text("#!/bin/sh\necho ran\n")
        (bottom / "folder" / "run.sh").chmod(0o755)
        self.own(top)
        self.own(bottom)
        return Overlay((top, bottom), self.new_folder("upper"), self.new_folder("work"), target)

    def launch(self, behaviour: Behaviour, name: str = "job", **changes: Any) -> str:
        container_id = self.engine.create(self.spec(behaviour, name, **changes))
        self.engine.start(container_id)
        return container_id

    def ended(self, container_id: str, seconds: float = 20.0) -> Observed:
        def over() -> Observed | None:
            seen = self.engine.inspect(container_id)
            assert seen is not None
            return seen if seen.state in ("exited", "dead") else None

        return wait_until(over, seconds, what="the end of a container")

    def ready(self, name: str = "job") -> None:
        """Wait until the container wrote "ready" to its spool."""
        path = self.spool(name) / "stdout"
        wait_until(lambda: path.exists() and b"ready" in path.read_bytes(), what="a container to be ready")

    def run_program(self, program: str, *arguments: str, **changes: Any) -> Any:
        """Run a Python program in a container; the JSON that it wrote to the file that its first argument names."""
        name = f"program{uuid.uuid4().hex[:6]}"
        argv = ("python3", "-I", "-S", "-c", program, f"{SPOOL}/found.json", *arguments)
        binds = (*self.spec(Behaviour(""), name).binds, *changes.pop("binds", ()))
        container_id = self.launch(Behaviour(""), name, argv=argv, binds=binds, **changes)
        seen = self.ended(container_id, 120)
        found = self.spool(name) / "found.json"
        assert found.exists(), (seen, self.engine.output(container_id))
        self.engine.remove(container_id)
        return json.loads(found.read_text())


class MemoryKit(Kit):
    runs_programs = False
    install_is_separate = True

    def make(self, install: str) -> MemoryEngine:
        self.scripts: dict[str, Script] = getattr(self, "scripts", {})
        return MemoryEngine(lambda spec: self.scripts[spec.argv[-1]], install=install)

    def unreachable(self) -> Engine:
        engine = MemoryEngine()
        engine.available = False
        return engine

    def spec(self, behaviour: Behaviour, name: str = "job", **changes: Any) -> ContainerSpec:
        self.scripts[behaviour.shell] = behaviour.script
        return super().spec(behaviour, name, **changes)


class ProcessKit(Kit):
    isolates = False
    runs_services = False
    install_is_separate = True

    def make(self, install: str) -> Engine:
        from ci_runner.controller.engines.process.engine import ProcessEngine

        return ProcessEngine(install, folder=self.folder / "processes")

    def unreachable(self) -> Engine | None:
        return None


#: For `Kit.run_program`: connects to each "host port" and writes what came of it: "connected" or the error's name.
CONNECT = """
import errno, json, socket, sys
found = {}
for target in sys.argv[2:]:
    host, port = target.rsplit(" ", 1)
    try:
        socket.create_connection((host, int(port)), 20).close()
        found[host] = "connected"
    except socket.timeout:
        found[host] = "timeout"
    except OSError as error:
        found[host] = errno.errorcode.get(error.errno, str(error))
json.dump(found, open(sys.argv[1], "w"))
"""


class DockerKit(Kit):
    def make(self, install: str) -> Engine:
        from ci_runner.controller.engines.docker.engine import DockerEngine

        return DockerEngine(install, scratch=self.folder)

    def unreachable(self) -> Engine:
        from ci_runner.controller.engines.docker.engine import DockerEngine

        return DockerEngine("nowhere", scratch=self.folder, base_url=f"unix://{self.folder}/no.sock")

    def own(self, path: Path) -> Path:
        if os.getuid() == 0:
            for each in (path, *path.rglob("*")):
                os.chown(each, 65532, 65532)
        return path

    def dispose(self) -> None:
        self.engine.uninstall()  # type: ignore[attr-defined]
        self.engine.close()

    def launch_server(self, port: int) -> tuple[str, str]:
        """Start a container with egress in which a server accepts connections; its id and address."""
        server = (
            "import socket\n"
            f"server = socket.create_server(('0.0.0.0', {port}))\n"
            "open('/ci/spool/stdout', 'w').write('ready')\n"
            "while True: server.accept()\n"
        )
        container_id = self.launch(Behaviour(""), "server", argv=("python3", "-c", server), network="egress")
        self.ready("server")
        engine: Any = self.engine
        networks = engine.api.client.inspect_container(container_id)["NetworkSettings"]["Networks"]
        return container_id, networks[engine.network.name]["IPAddress"]


@contextmanager
def kit_for(kind: str, folder: Path) -> Iterator[Kit]:
    """A kit whose containers are all gone afterwards."""
    kits: dict[str, Callable[[], Kit]] = {
        "memory": lambda: MemoryKit(folder, "base"),
        "process": lambda: ProcessKit(folder, "host"),
        "docker": lambda: DockerKit(folder, TEST_IMAGE),
    }
    kit = kits[kind]()
    try:
        yield kit
    finally:
        kit.dispose()


READY = "echo ready >>/ci/spool/stdout; "
SAYS_READY = (Output(b"ready\n"),)
ENDS = Behaviour("exit 0")
EXITS_7 = Behaviour("exit 7", Script(exit_code=7))
FOREVER = Behaviour(READY + "exec sleep 600", Script(exit_after=None, output=SAYS_READY))
STOPS_ON_TERM = Behaviour(
    "trap 'exit 5' TERM; " + READY + "while :; do sleep 0.05; done",
    Script(exit_after=None, output=SAYS_READY, on_term=5),
)
IGNORES_TERM = Behaviour(
    "trap '' TERM; " + READY + "while :; do sleep 0.05; done",
    Script(exit_after=None, output=SAYS_READY, on_term=None),
)
