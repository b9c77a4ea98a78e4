"""`Services`: programs that run alongside a job's tests, such as a database; started and awaited before them.

They share one network with the job's container, loopback included, like the containers of a Kubernetes pod. Each is
reachable by its name or at 127.0.0.1, other jobs cannot see them, and only containers have to be made and removed.
The first one provides the network; it carries the job's labels, so in any case `decide` finds and removes them all
with the job. Two services that listen on the same port exclude each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from ci_runner.controller.engine import Engine, Observed, ServiceSpec
from ci_runner.controller.environments.base_image import check_allowed
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.job_limits import service_limits
from ci_runner.errors import PermanentError
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.checks import ServiceOptions
from pytest_remote_ci.wire.protocol import SubmitOptions

#: Seconds for all services of a job to become ready.
PATIENCE: Final = 120.0
#: Seconds between two checks: at first, and at most.
_PAUSES: Final = (0.05, 0.5)
#: Characters of a failed service's output to show to its user.
_TAIL: Final = 4000
#: Exits with 0 if each of the ports (hexadecimal, as in /proc) is listened on; needs only a shell.
_LISTENING: Final = """
for port in {ports}; do
    found=
    for file in /proc/net/tcp /proc/net/tcp6; do
        [ -r $file ] && while read -r _ place _ state _; do
            case "$place/$state" in *:$port/0A) found=1;; esac
        done < $file
    done
    [ -n "$found" ] || exit 1
done
"""


class Services:
    """The services of jobs; see the module. Thread-safe; may be called again for the same job."""

    def __init__(self, engine: Engine, settings: ReconcileSettings, patience: float = PATIENCE) -> None:
        """Set up the object; `patience` is in seconds."""
        self._engine = engine
        self._settings = settings
        self._patience = patience

    def ensure(
        self, job_id: str, options: SubmitOptions, *, log: Callable[[str], None], stopping: Callable[[], bool]
    ) -> str | None:
        """Start missing services and wait until all are ready; return the first one's container, to join its network.

        Return None if the job has no services. `log` gets lines for the user. Raises `PermanentError` if one ends or
        is not ready in time, `ImageUnavailable`, `EngineUnavailable`, and `PreparationStopped` if `stopping` returns
        true.
        """
        if not options.services:
            return None
        started: list[tuple[ServiceOptions, str]] = []
        for service in options.services:
            first = started[0][1] if started else None
            container_id = self._engine.create_service(self._spec(job_id, options, service, first, log))
            started.append((service, container_id))
            try:
                self._engine.start(container_id)
            except PermanentError as error:
                self._readiness(started[:-1], log)  # it cannot join the network of an ended container
                raise PermanentError(f"service {service['name']}: {error}") from error
        self._wait(started, log, stopping)
        return started[0][1]

    def _spec(
        self,
        job_id: str,
        options: SubmitOptions,
        service: ServiceOptions,
        first: str | None,
        log: Callable[[str], None],
    ) -> ServiceSpec:
        settings = self._settings
        check_allowed(service["image"], settings.allowed_images)
        return ServiceSpec(
            name=f"{settings.prefix}{job_id}-s-{service['name']}",
            image_id=self._engine.image(service["image"], progress=log).id,
            job_id=job_id,
            env=service["env"],
            command=tuple(service["command"]),
            limits=service_limits(service, settings),
            network="none" if "none" in (options.network, settings.network) else "egress",
            hosts=tuple(each["name"] for each in options.services),
            join=first,
            own_check=not _check(service),
        )

    def _wait(
        self,
        started: Sequence[tuple[ServiceOptions, str]],
        log: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> None:
        deadline, pause = time.monotonic() + self._patience, _PAUSES[0]
        while True:
            waiting = [name for name, is_ready in self._readiness(started, log) if not is_ready]
            if not waiting:
                return
            if stopping():
                raise PreparationStopped("stopped while the services were started")
            if time.monotonic() > deadline:
                late = next(pair for pair in started if pair[0]["name"] == waiting[0])
                self._show(late[0], late[1], log)
                raise PermanentError(
                    f"service {waiting[0]} was not ready after {self._patience:g} s: {_expected(late[0])}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _PAUSES[1])

    def _readiness(
        self, started: Sequence[tuple[ServiceOptions, str]], log: Callable[[str], None]
    ) -> list[tuple[str, bool]]:
        """Return name and readiness of each. Raises `PermanentError` for one that has ended."""
        result = []
        for service, container_id in started:
            seen = self._engine.inspect(container_id)
            if seen is None or seen.state in ("exited", "dead", "removing"):
                self._show(service, container_id, log)
                code = f" with code {seen.exit_code}" if seen is not None else ""
                raise PermanentError(f"service {service['name']} ended{code} before the tests began")
            result.append((service["name"], self._is_ready(service, seen)))
        return result

    def _is_ready(self, service: ServiceOptions, seen: Observed) -> bool:
        if seen.state != "running":
            return False
        check = _check(service)
        if check:
            return self._engine.execute(seen.id, ("sh", "-c", check)) == 0
        return seen.healthy is not False

    def _show(self, service: ServiceOptions, container_id: str, log: Callable[[str], None]) -> None:
        output = self._engine.output(container_id)[-_TAIL:].strip()
        if output:
            log(f"last output of service {service['name']}:\n{output}")


def _check(service: ServiceOptions) -> str:
    """Return a shell script that exits with 0 once the service is ready; "" if no check is defined."""
    ports = " ".join(f"{port:04X}" for port in service["ports"])
    parts = [_LISTENING.format(ports=ports)] if ports else []
    return "\n".join([*parts, *([service["health"]] if service["health"] else [])])


def _expected(service: ServiceOptions) -> str:
    if service["health"]:
        return f"its health command did not succeed: {service['health']}"
    if service["ports"]:
        return f"nothing listens on all of its ports ({', '.join(map(str, service['ports']))})"
    return "its image's own health check did not succeed"
