"""Whether the process responds (`/health`) and whether jobs can run (`/ready`)."""

from __future__ import annotations

import datetime as dt
from typing import Final

import falcon
from msgspec import UNSET

from ci_runner.errors import RunnerError
from ci_runner.server import schemas
from ci_runner.server.context import Services
from ci_runner.server.resources.waiting import engine_problem
from ci_runner.store.lease import LeaseState
from pytest_remote_ci.wire import formats

#: Without a heartbeat for this long, a controller counts as gone.
_SILENCE: Final = dt.timedelta(seconds=15)


class Health:
    """`GET /health`."""

    public = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Confirm that the process responds."""
        resp.media = schemas.Health(status="ok")

    on_head = on_get


class Ready:
    """`GET /ready`."""

    public = True

    def __init__(self, services: Services) -> None:
        self._services = services

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send one line per dependency; status 503 if one of them fails."""
        lines = {**self._store(), "disk": self._disk()}
        checks = [
            schemas.Check(name=name, ok=text is None, detail=text or "ok") for name, text in lines.items()
        ]
        problems = [f"{name}: {text}" for name, text in lines.items() if text is not None]
        resp.media = schemas.Readiness(
            status="not ready" if problems else "ready",
            checks=checks,
            detail="; ".join(problems) if problems else UNSET,
        )
        if problems:
            resp.status = falcon.HTTP_503
            resp.set_header("Retry-After", "5")

    on_head = on_get

    def _store(self) -> dict[str, str | None]:
        try:
            lease = self._services.store.lease.read()
        except RunnerError:
            return {"database": "does not answer", "controller": "unknown without the database"}
        controller = self._controller(lease)
        if controller is not None:  # what it stored about the engine is out of date
            return {"database": None, "controller": controller}
        return {"database": None, "controller": None, "engine": engine_problem(lease)}

    def _controller(self, lease: LeaseState) -> str | None:
        if lease.heartbeat_at is None:
            return "has never run; start `ci-runner reconcile`"
        silence = self._services.clock() - lease.heartbeat_at
        return f"no heartbeat for {int(silence.total_seconds())} s" if silence > _SILENCE else None

    def _disk(self) -> str | None:
        free = self._services.blobs.free_bytes()
        if free >= self._services.storage.disk_reserve:
            return None
        return f"{formats.size(free)} are free, fewer than the reserve; submissions are refused"
