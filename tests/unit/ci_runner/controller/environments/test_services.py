"""Services of a job without an engine: what is asked of one, and when it is given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ci_runner.controller.engines.memory import MemoryEngine, Script
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.environments.services import Services
from ci_runner.errors import ImageUnavailable, PermanentError
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.protocol import SubmitOptions

FOREVER = Script(exit_after=None, writes_spool=False)


def options(*services: dict[str, Any]) -> SubmitOptions:
    return SubmitOptions.from_dict({"services": [{"image": "postgres", **each} for each in services]})


def test_a_job_without_services_costs_nothing() -> None:
    engine = MemoryEngine()
    services = Services(engine, ReconcileSettings())
    assert services.ensure("job", SubmitOptions(), log=print, stopping=lambda: False) is None
    assert engine.calls == []


def test_all_join_the_first_and_are_found_again() -> None:
    engine = MemoryEngine(lambda spec: FOREVER)
    services = Services(engine, ReconcileSettings())
    wanted = options({"name": "db"}, {"name": "cache"})
    first = services.ensure("job", wanted, log=print, stopping=lambda: False)
    assert services.ensure("job", wanted, log=print, stopping=lambda: False) == first
    seen = engine.list()
    assert seen[0].id == first
    assert [(item.role, item.job_id, item.name.rpartition("-")[2]) for item in seen] == [
        ("service", "job", "db"),
        ("service", "job", "cache"),
    ]
    assert set(engine.creates.values()) == {1}


class NothingSucceeds(MemoryEngine):
    """An engine in whose containers every command fails."""

    def execute(self, container_id: str, argv: Sequence[str]) -> int:
        return 1


def test_one_that_is_never_ready_is_given_up_and_says_what_was_waited_for() -> None:
    engine = NothingSucceeds(lambda spec: Script(exit_after=None, writes_spool=False))
    services = Services(engine, ReconcileSettings(), patience=0.2)
    with pytest.raises(PermanentError) as caught:
        services.ensure(
            "job", options({"name": "db", "health": "pg_isready"}), log=print, stopping=lambda: False
        )
    assert str(caught.value) == (
        "service db was not ready after 0.2 s: its health command did not succeed: pg_isready"
    )
    with pytest.raises(PermanentError, match=r"nothing listens on all of its ports \(5432, 5433\)"):
        services.ensure(
            "other", options({"name": "db", "ports": [5432, 5433]}), log=print, stopping=lambda: False
        )


def test_the_waiting_ends_when_the_job_does() -> None:
    engine = NothingSucceeds(lambda spec: FOREVER)
    with pytest.raises(PreparationStopped):
        Services(engine, ReconcileSettings()).ensure(
            "job", options({"name": "db", "ports": [1]}), log=print, stopping=lambda: True
        )


def test_images_that_users_may_not_name_are_refused() -> None:
    engine = MemoryEngine(lambda spec: FOREVER)
    settings = ReconcileSettings(allowed_images=("python:*",))
    with pytest.raises(ImageUnavailable, match="image 'postgres' is not allowed on this runner"):
        Services(engine, settings).ensure("job", options({"name": "db"}), log=print, stopping=lambda: False)
    assert engine.list() == []


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two services are named 'db'"):
        options({"name": "db"}, {"name": "db"})
