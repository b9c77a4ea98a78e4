"""`DockerEngine`: containers of a Docker engine on this machine. Thin: `container_profile` decides, this module calls.

Everything it makes carries the install's label and a name derived from the job's, so that a restarted controller
finds it again. The engine itself mounts the workspace's overlay (by its `local` volume driver), so the controller
needs no privilege to mount.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from ci_runner.controller.engine import (
    LABEL_INSTALL,
    LABEL_ROLE,
    ContainerSpec,
    DerivedImage,
    Footprint,
    Image,
    ImageBuild,
    Observed,
    Probe,
    ServiceSpec,
)
from ci_runner.controller.engines import sources
from ci_runner.controller.engines.docker import (
    container_profile,
    derived_images,
    disk_usage,
    docker_json,
    image_build_profile,
    images,
    service_profile,
    warm_containers,
)
from ci_runner.controller.engines.docker import (
    probe as docker_probe,
)
from ci_runner.controller.engines.docker import (
    processes as docker_processes,
)
from ci_runner.controller.engines.docker.allowed_hosts import Service
from ci_runner.controller.engines.docker.api import DockerAPI, has_just_ended, status_of, translated
from ci_runner.controller.engines.docker.events import DockerEvents
from ci_runner.controller.engines.docker.images import FIND_PYTHONS, DockerImages
from ci_runner.controller.engines.docker.network import DockerNetwork
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError

log = logging.getLogger(__name__)

#: User id of jobs if the runner itself is root.
UNPRIVILEGED: Final = 65532
#: Seconds to wait for a removal that another caller began.
_REMOVAL_PATIENCE: Final = 15.0
#: Maximum seconds of a command in a running container.
_EXECUTION_PATIENCE: Final = 20.0
#: Exit code of a container whose first process was killed.
_KILLED: Final = 128 + 9
#: Seconds after the end of such a container within which the engine may not have recorded yet that memory ran out.
_OOM_PATIENCE: Final = 1.0
#: Features that every engine has.
_NO_FEATURES: Final = container_profile.Features()
#: The engine's error for a volume that it believes to be mounted, though no container has it.
_ACTIVE_MOUNTS: Final = "has active mounts"


class DockerEngine:
    """The default engine. One object per process; must be closed."""

    name = "docker"

    def __init__(
        self,
        install: str,
        *,
        scratch: Path,
        base_url: str | None = None,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float = 60.0,
        look_timeout: float = 5.0,
        services: Sequence[Service] = (),
        allowed_networks: Sequence[str] = (),
    ) -> None:
        """Set up the engine without connecting.

        `scratch`: a folder for the probe, on the data directory's file system. `uid`/`gid`: the jobs' user; default:
        the runner's own, or 65532 if that is root. `timeout`: seconds per call. `look_timeout`: seconds per call that
        only looks at containers: all decisions wait for these. `services`: hosts and ports that containers may reach in
        closed networks; `allowed_networks`: closed IPv4 networks that the operator opened.
        """
        uid = uid if uid is not None else os.getuid() or UNPRIVILEGED
        gid = gid if gid is not None else (os.getgid() if os.getuid() else UNPRIVILEGED)
        self.install = install
        self.profile = container_profile.Profile(install, uid, gid)
        self.scratch = scratch
        self.api = DockerAPI(base_url, timeout)
        self.look = DockerAPI(base_url, min(timeout, look_timeout))
        self.images = DockerImages(self.api, self._find_pythons)
        self.events = DockerEvents(self.api, install, self.inspect)
        self.network = DockerNetwork(self.api, install, services, allowed_networks)
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._probe: Probe | None = None
        #: Names of the throw-away containers in use.
        self._probes: set[str] = set()
        #: Container id → last inspection; valid while the container's state is the same, as nothing else in it
        #: changes.
        self._seen: dict[str, Observed] = {}
        self._failed_starts: set[str] = set()
        #: Ids of the containers that were killed by `signal`.
        self._killed: set[str] = set()

    # -- probing
    def probe(self) -> Probe:
        """See `Engine.probe`."""
        with self._probing:
            if self._probe is not None:
                return self._probe
            probe, features = self._probe_engine()
            if features is not None:  # None: there is no image yet; probe again when there is one
                self.profile = dataclasses.replace(self.profile, features=features)
            if features is not None or not probe.usable:
                self._probe = probe
            return probe

    def _probe_engine(self) -> tuple[Probe, container_profile.Features | None]:
        with translated("ask for the engine's version"):
            version, info = self.api.client.version(), self.api.client.info()
            images = self.api.client.images()
        image = docker_probe.choose_image(images)
        container = docker_probe.Container(self._run_probe, self._own)
        return docker_probe.probe(
            version, info, self.api.base_url, image, self.scratch, self.network, container
        )

    def _own(self, folder: Path) -> None:
        """Give a folder and its contents to the job's user; only root can, and only root has to."""
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self.profile.uid, self.profile.gid)

    def image(
        self, reference: str, *, pull: bool = True, progress: Callable[[str], None] | None = None
    ) -> Image:
        """See `Engine.image`."""
        return self.images.resolve(reference, pull=pull, progress=progress)

    def image_file(self, image_id: str, path: str, limit: int) -> bytes | None:
        """See `Engine.image_file`; reads it from a container that is never started."""
        name = f"ci-runner-probe-{uuid.uuid4().hex}"
        spec = ContainerSpec(name, image_id, ("true",), "build", "", 0, network="none")
        with self._throw_away(spec, _NO_FEATURES) as container_id:
            return images.read_file(self.api, container_id, path, limit)

    # -- one container's life
    def create(self, spec: ContainerSpec) -> str:
        """See `Engine.create`."""
        sources.check(spec)
        if spec.overlay is not None:
            self.probe()  # sets `profile.features`
        config = container_profile.container_config(spec, self.profile)
        try:
            return self._create(spec, config)
        except ImageUnavailable:
            raise
        except PermanentError as error:
            raise PermanentError(container_profile.scrub(str(error), spec)) from error

    def create_service(self, spec: ServiceSpec) -> str:
        """See `Engine.create_service`."""
        return self._create(spec, service_profile.service_config(spec, self.profile))

    def _create(
        self, spec: ContainerSpec | ServiceSpec | ImageBuild, config: docker_json.ContainerConfig
    ) -> str:
        if isinstance(spec, ImageBuild) or (spec.network == "egress" and spec.join is None):
            self.network.ensure()
        try:
            with translated("create the container"):
                return self.api.client.create_container_from_config(config, spec.name)["Id"]
        except PermanentError as error:
            if status_of(error) == 409:
                return self._adopt(spec.name, config["Labels"])
            if status_of(error) == 404 and "image" in str(error).lower():
                raise ImageUnavailable(f"the image of {spec.name} no longer exists: {error}") from error
            raise

    # -- image builds
    def create_image_build(self, spec: ImageBuild) -> str:
        """See `Engine.create_image_build`."""
        sources.check(spec)
        return self._create(spec, image_build_profile.image_build_config(spec, self.profile))

    def run_as_root(
        self,
        container_id: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        output: Callable[[bytes], None],
    ) -> int | None:
        """See `Engine.run_as_root`."""
        return derived_images.run_as_root(self.api, container_id, argv, env, output)

    def commit(self, container_id: str, base: Image, about: str) -> DerivedImage:
        """See `Engine.commit`."""
        return derived_images.commit(self.api, self.install, container_id, base, about)

    def derived_images(self) -> frozenset[str]:
        """See `Engine.derived_images`."""
        return derived_images.list_ids(self.api, self.install)

    def remove_image(self, image_id: str) -> bool:
        """See `Engine.remove_image`."""
        return derived_images.remove(self.api, image_id)

    def _adopt(self, name: str, labels: dict[str, str]) -> str:
        inspected = self._inspect_raw(name)
        if inspected is None:
            # A name is reserved shortly before its container is visible, and freed shortly after.
            raise EngineUnavailable(f"the name {name} is in use, but its container does not exist")
        if not container_profile.is_ours(inspected["Config"].get("Labels") or {}, labels):
            raise PermanentError(f"the container name {name} is used by something else")
        return inspected["Id"]

    def execute(self, container_id: str, argv: Sequence[str]) -> int | None:
        """See `Engine.execute`. Nothing is attached: the engine drops the output, however large."""
        deadline, pause = time.monotonic() + _EXECUTION_PATIENCE, 0.01
        try:
            with translated("run a command in the container"):
                client = self.api.client
                started = client.exec_create(container_id, list(argv), stdout=False, stderr=False)["Id"]
                client.exec_start(started, detach=True)
                while (seen := client.exec_inspect(started))["Running"] and time.monotonic() < deadline:
                    time.sleep(pause)
                    pause = min(2 * pause, 0.1)
        except PermanentError as error:
            if status_of(error) in (404, 409) or has_just_ended(str(error)):
                return None
            raise
        return int(seen["ExitCode"]) if seen["ExitCode"] is not None else None

    def written_by_services(self) -> Mapping[str, int]:
        """See `Engine.written_by_services`."""
        return disk_usage.of_services(self.api, self.install)

    def footprint(self, container_id: str) -> Footprint:
        """See `Engine.footprint`."""
        inspected = self._inspect_raw(container_id)
        if inspected is None or not inspected["State"].get("Running"):
            return Footprint()
        processes = docker_processes.of_container(inspected["Id"], inspected["State"].get("Pid") or 0)
        role = (inspected["Config"].get("Labels") or {}).get(LABEL_ROLE)
        if role == "build":
            return Footprint(processes, disk_usage.build_folders(inspected, is_here=bool(processes)))
        # The engine's folders are on this machine only if its processes are.
        if not processes:
            return Footprint()
        if role == "service":
            return Footprint(processes, disk_usage.folders(inspected), is_service=True)
        return Footprint(processes, disk_usage.volumes_of_image(inspected))

    def start(self, container_id: str) -> None:
        """See `Engine.start`."""
        before = self.inspect(container_id)
        if before is None:
            raise PermanentError("the container no longer exists")
        if before.state != "created":
            return
        try:
            self._start(container_id)
        except PermanentError as error:
            self._failed_starts.add(container_id)
            after = self.inspect(container_id)
            words = (after.error if after is not None else None) or str(error)
            raise PermanentError(f"the container could not be started: {words}") from error

    def _start(self, container_id: str) -> None:
        for attempt in (1, 2):
            try:
                with translated("start the container"):
                    self.api.client.start(container_id)
                return
            except PermanentError as error:
                if attempt == 2 or f"network {self.network.name} not found" not in str(error):
                    raise
            self.network.ensure()  # another program of this install removed it meanwhile

    def signal(self, container_id: str, signal: Literal["TERM", "KILL"]) -> None:
        """See `Engine.signal`."""
        if signal == "KILL":
            with self._lock:
                self._killed.add(container_id)
        try:
            with translated(f"send {signal}"):
                self.api.client.kill(container_id, signal=f"SIG{signal}")
        except (PermanentError, EngineUnavailable) as error:
            if status_of(error) not in (404, 409, 500) or self._is_running(container_id):
                raise

    def _is_running(self, container_id: str) -> bool:
        seen = self.inspect(container_id)
        return seen is not None and seen.state in ("running", "paused")

    def remove(self, container_id: str) -> None:
        """See `Engine.remove`."""
        inspected = self._inspect_raw(container_id)
        if inspected is not None:
            self._remove_container(container_id)
            for mount in inspected.get("Mounts") or ():
                if mount.get("Type") == "volume":
                    self._remove_volume(mount["Name"])
        with self._lock:
            self._seen.pop(container_id, None)
            self._failed_starts.discard(container_id)
            self._killed.discard(container_id)

    def _remove_container(self, container_id: str) -> None:
        deadline = time.monotonic() + _REMOVAL_PATIENCE
        while True:
            try:
                with translated("remove the container"):
                    self.api.client.remove_container(container_id, v=True, force=True)
                return
            except PermanentError as error:
                if status_of(error) == 404:
                    return
                if status_of(error) != 409:
                    raise
                if time.monotonic() > deadline:
                    raise EngineUnavailable(str(error)) from error
            time.sleep(0.05)  # another removal is in progress

    def _remove_volume(self, name: str) -> None:
        try:
            with translated("remove the volume"):
                self.api.client.remove_volume(name)
        except (PermanentError, EngineUnavailable) as error:
            if _ACTIVE_MOUNTS in str(error):
                # Engines before 24 miscount a volume's mounts when they restart next to a running container
                # (live-restore), and release it only after their next restart: `sweep` removes it then.
                log.debug("the engine does not release volume %s until it is restarted", name)
                return
            # 404: removed with its container. 409: another container (adopted by a successor) still uses it.
            if status_of(error) not in (404, 409):
                raise

    # -- containers started ahead
    def freeze(self, container_id: str) -> None:
        """See `WarmEngine.freeze`."""
        warm_containers.freeze(self.api, container_id)

    def assign(self, container_id: str, name: str) -> None:
        """See `WarmEngine.assign`."""
        warm_containers.rename(self.api, container_id, name)
        self.inspect(container_id)  # replaces what was seen under the former name

    def thaw(self, container_id: str) -> None:
        """See `WarmEngine.thaw`."""
        warm_containers.thaw(self.api, container_id)

    def memory(self, container_id: str) -> int:
        """See `WarmEngine.memory`."""
        return warm_containers.memory(self.api, container_id)

    def waiting(self) -> list[str]:
        """See `WarmEngine.waiting`."""
        return warm_containers.waiting(self.api, self.install)

    # -- observing
    def list(self) -> list[Observed]:
        """See `Engine.list`. One call, and one more per container with a changed state."""
        with translated("list containers"):
            summaries = self.look.client.containers(all=True, filters=self._ours())
        result = []
        for summary in summaries:
            labels = summary.get("Labels") or {}
            if not container_profile.is_job(labels) or warm_containers.is_waiting(
                labels, summary["Names"][0]
            ):
                continue
            seen = self._see(summary)
            if seen is not None:
                result.append(seen)
        with self._lock:
            there = {summary["Id"] for summary in summaries}
            self._seen = {key: value for key, value in self._seen.items() if key in there}
            self._failed_starts &= there
            self._killed &= there
        return result

    def _see(self, summary: docker_json.ContainerSummary) -> Observed | None:
        container_id = summary["Id"]
        with self._lock:
            seen = self._seen.get(container_id)
            fresh = seen is not None and seen.state == container_profile.summary_state(summary)
            if seen is not None and fresh and (seen.error or container_id not in self._failed_starts):
                return seen
        return self.inspect(container_id)

    def inspect(self, container_id: str) -> Observed | None:
        """See `Engine.inspect`."""
        inspected = self._inspect_raw(container_id)
        if inspected is None:
            return None
        seen = container_profile.observed(inspected)
        with self._lock:
            known = self._seen.get(container_id)
            is_ours = container_id in self._killed
        if seen.exit_code == _KILLED and not seen.oom_killed and not is_ours:
            if known is not None and known.exit_code == _KILLED:
                oom = known.oom_killed
            else:
                oom = self._ran_out_of_memory(seen)
                if not oom and _ended_just_now(seen):
                    # The event may still come. Waiting here would hold up other jobs: the next look decides.
                    return dataclasses.replace(seen, state="running", exit_code=None, finished_at=None)
            seen = dataclasses.replace(seen, oom_killed=oom)
        with self._lock:
            self._seen[container_id] = seen
        return seen

    def _ran_out_of_memory(self, seen: Observed) -> bool:
        """Return whether a killed container ran out of memory, by the engine's event.

        Engines announce that beside the container's end, sometimes after it, and then do not add it to the state.
        """
        with translated("look for the event of full memory"):
            found = self.look.client.events(
                decode=True,
                filters={"container": seen.id, "event": "oom"},
                since=0 if seen.started_at is None else seen.started_at.timestamp(),
                until=time.time(),
            )
            return bool(list(found))

    def _inspect_raw(self, container: str) -> docker_json.Container | None:
        try:
            with translated("inspect the container"):
                return self.look.client.inspect_container(container)
        except PermanentError as error:
            if status_of(error) == 404:
                return None
            raise

    def output(self, container_id: str, limit: int = 65536) -> str:
        """See `Engine.output`."""
        try:
            with translated("read the container's log"):
                data = self.api.client.logs(container_id, stdout=True, stderr=True)
        except PermanentError as error:
            if status_of(error) in (404, 409):
                return ""
            raise
        return data[-limit:].decode(errors="replace")

    def watch(self, wake: Callable[[], None]) -> None:
        """See `Engine.watch`."""
        self.events.add(wake)

    # -- tidying up
    def sweep(self, keep: frozenset[str]) -> int:
        """See `Engine.sweep`: removes volumes without a container, and throw-away containers of earlier processes."""
        with translated("list volumes"):
            answer = self.look.client.volumes(filters={**self._ours(), "dangling": True})
        stale = [
            volume["Name"]
            for volume in answer.get("Volumes") or ()
            if (volume.get("Labels") or {}).get(container_profile.LABEL_CONTAINER) not in keep
        ]
        for name in stale:
            self._remove_volume(name)
        self.network.refresh()
        return len(stale) + self._sweep_probes()

    def _sweep_probes(self) -> int:
        with translated("list containers"):
            label = [f"{LABEL_INSTALL}={self.install}", f"{LABEL_ROLE}={container_profile.ROLE_PROBE}"]
            summaries = self.api.client.containers(all=True, filters={"label": label})
        with self._lock:
            stale = [item["Id"] for item in summaries if item["Names"][0].lstrip("/") not in self._probes]
        for container_id in stale:
            self.remove(container_id)
        return len(stale)

    def belongings(self) -> dict[str, builtins.list[str]]:
        """See `RemovableEngine.belongings`."""
        client = self.api.client
        with translated("list what the runner has"):
            containers = client.containers(all=True, filters=self._ours())
            volumes = client.volumes(filters=self._ours()).get("Volumes") or ()
            networks = client.networks(filters=self._ours())
        return {
            "container": [item["Names"][0].lstrip("/") for item in containers],
            "volume": [item["Name"] for item in volumes],
            "network": [item["Name"] for item in networks],
            "image": sorted(self.derived_images()),
            "firewall chain": self.network.firewall.chains(),
        }

    def uninstall(self) -> None:
        """Remove everything with this install's label: containers, derived images, volumes, networks, their rules."""
        with translated("list containers"):
            summaries = self.api.client.containers(all=True, filters=self._ours())
        for summary in summaries:
            self.remove(summary["Id"])
        for image_id in self.derived_images():
            self.remove_image(image_id)
        self.sweep(frozenset())
        self.network.remove()

    def close(self) -> None:
        """See `Engine.close`. Also removes the network if no container uses it; it is created again when needed."""
        self.events.close()
        self.network.release()
        self.api.close()
        self.look.close()

    # -- internals
    def _ours(self) -> dict[str, str]:
        return {"label": f"{LABEL_INSTALL}={self.install}"}

    def _find_pythons(self, image_id: str) -> str:
        argv = ("sh", "-c", FIND_PYTHONS)
        name = f"ci-runner-probe-{uuid.uuid4().hex}"
        return self._run_probe(ContainerSpec(name, image_id, argv, "build", "", 0, network="none"))

    def _run_probe(self, spec: ContainerSpec, features: container_profile.Features = _NO_FEATURES) -> str:
        """Run a throw-away container under the jobs' profile and return its output; remove it completely."""
        with self._throw_away(spec, features) as container_id, translated("run a throw-away container"):
            client = self.api.client
            client.start(container_id)
            client.wait(container_id, timeout=self.api.timeout)
            output = client.logs(container_id)
            return output.decode(errors="replace")

    @contextlib.contextmanager
    def _throw_away(self, spec: ContainerSpec, features: container_profile.Features) -> Iterator[str]:
        """Create a container under the jobs' profile; remove it completely in the end."""
        config = container_profile.container_config(
            spec, dataclasses.replace(self.profile, features=features)
        )
        config["Labels"] = {LABEL_INSTALL: self.install, LABEL_ROLE: container_profile.ROLE_PROBE}
        with self._lock:
            self._probes.add(spec.name)
        try:
            with translated("create a throw-away container"):
                container_id = str(self.api.client.create_container_from_config(config, spec.name)["Id"])
            yield container_id
        finally:
            with contextlib.suppress(PermanentError, EngineUnavailable):
                self.remove(spec.name)
            with self._lock:
                self._probes.discard(spec.name)


def _ended_just_now(seen: Observed) -> bool:
    """Return whether the engine may not have announced yet why this container ended."""
    ended = seen.finished_at
    return ended is not None and abs(time.time() - ended.timestamp()) < _OOM_PATIENCE
