"""Plugins: loading, checking and calling them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller.engine import Bind, ContainerSpec, Limits
from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.errors import PermanentError, SettingsError
from ci_runner.model.job import Job
from ci_runner.plugins.hookspecs import hookimpl
from ci_runner.plugins.manager import Plugins, widening
from ci_runner.settings.groups import Settings

JOB = Job("job-1")
SPEC = ContainerSpec(
    "n",
    "sha256:1",
    ("python",),
    "test",
    "job-1",
    1,
    env={"A": "1", "B": "2"},
    binds=(Bind(Path("/x"), "/ci/tools"), Bind(Path("/y"), "/ci/spool", read_only=False)),
)


def change(**changes: Any) -> ContainerSpec:
    return dataclasses.replace(SPEC, **changes)


# -- loading
def test_the_plugins_that_come_with_the_runner_load_and_do_nothing_unless_set() -> None:
    plugins = Plugins.load({})
    assert {"docker", "process"} <= set(plugins.engine_names)
    assert {name.split()[0] for name in plugins.names()} >= {"engines", "webhooks", "jwt"}
    plugins.job_submitted(job=JOB)
    plugins.job_finished(JOB)
    assert plugins.hook.authenticate(credentials="a.b.c") is None
    assert plugins.container_options(JOB, SPEC) is SPEC
    plugins.close()


def test_an_engine_is_made_by_its_name(tmp_path: Path) -> None:
    settings = Settings()
    settings = dataclasses.replace(settings, storage=dataclasses.replace(settings.storage, data_dir=tmp_path))
    plugins = Plugins.load({})
    for name in ("docker", "process"):
        engine = plugins.engine(name, settings, "0" * 12)
        assert engine.name == name
        engine.close()


def test_an_unknown_engine_names_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"unknown engine 'dokcer'; known: docker, process"):
        Plugins.load({}).engine("dokcer", Settings(), "0" * 12)


def test_an_entry_point_that_cannot_be_loaded_is_named() -> None:
    entry = EntryPoint("broken", "no_such_module_anywhere", "ci_runner")
    with pytest.raises(SettingsError, match=r"plugin broken \(no_such_module_anywhere\) cannot be loaded"):
        Plugins.load({}, found=[entry])


class Unknown:
    @hookimpl
    def job_ended(self, job: Job) -> None: ...


class WrongArguments:
    @hookimpl
    def job_finished(self, job: Job, moon_phase: str) -> None: ...


class Unmarked:
    def job_finished(self, job: Job) -> None: ...


class Nothing:
    pass


class BadEngines:
    @hookimpl
    def register_engines(self) -> Any:
        return ["docker"]


class TakenEngine:
    @hookimpl
    def register_engines(self) -> Any:
        return [("docker", lambda settings, install: None)]


class NoFactory:
    @hookimpl
    def register_engines(self) -> Any:
        return [("mine", "factory")]


class BadSetting:
    @hookimpl
    def configure(self, environ: Mapping[str, str]) -> None:
        raise SettingsError("CI_RUNNER_PLUGIN_X: must be a number")


@pytest.mark.parametrize(
    ("plugin", "complaint"),
    [
        pytest.param(Unknown(), "job_ended", id="an unknown hook"),
        pytest.param(WrongArguments(), "moon_phase", id="an argument that the hook lacks"),
        pytest.param(Unmarked(), "job_finished is not marked", id="a hook without its mark"),
        pytest.param(Nothing(), "implements no hook", id="no hook at all"),
        pytest.param(BadEngines(), "pairs", id="engines that are no pairs"),
        pytest.param(TakenEngine(), "engine 'docker' already", id="an engine name that is taken"),
        pytest.param(NoFactory(), "cannot be called", id="a factory that is none"),
        pytest.param(BadSetting(), "CI_RUNNER_PLUGIN_X", id="a wrong setting"),
    ],
)
def test_a_wrong_plugin_is_refused_by_name(plugin: object, complaint: str) -> None:
    plugins = Plugins.load({})
    with pytest.raises(SettingsError) as caught:
        plugins.register(plugin, "mine")
    assert "plugin mine" in str(caught.value)
    assert complaint in str(caught.value)


def test_a_plugin_can_bring_an_engine() -> None:
    class Brings:
        @hookimpl
        def register_engines(self) -> Any:
            return [("pretend", lambda settings, install: MemoryEngine(install=install))]

    plugins = Plugins({})
    plugins.register(Brings(), "brings")
    assert isinstance(plugins.engine("pretend", Settings(), "abc"), MemoryEngine)


# -- notifications
class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def job_submitted(self, job: Job) -> None:
        self.seen.append(f"submitted {job.id}")

    @hookimpl
    def job_finished(self, job: Job) -> None:
        self.seen.append(f"finished {job.id}")

    @hookimpl
    def close(self) -> None:
        self.seen.append("close")


class Failing:
    @hookimpl
    def job_submitted(self, job: Job) -> None:
        raise RuntimeError("boom")

    @hookimpl
    def authenticate(self, credentials: str) -> str | None:
        raise RuntimeError("boom")

    @hookimpl
    def container_options(self, spec: ContainerSpec) -> ContainerSpec | None:
        raise RuntimeError("boom")


def test_one_failing_plugin_does_not_keep_others_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    plugins, first, last = Plugins({}), Recorder(), Recorder()
    plugins.register(first, "first")
    plugins.register(Failing(), "failing")
    plugins.register(last, "last")
    plugins.job_submitted(job=JOB)
    plugins.job_finished(JOB)
    plugins.close()
    assert first.seen == last.seen == ["submitted job-1", "finished job-1", "close"]
    assert "plugin failing failed in job_submitted" in caplog.text


# -- authentication
class Knows:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def authenticate(self, credentials: str) -> Any:
        return self.answer if credentials == "secret" else None


def test_the_first_plugin_that_knows_the_credentials_decides() -> None:
    plugins = Plugins({})
    plugins.register(Knows("old@example.org"), "old")
    plugins.register(Knows("new@example.org"), "new")
    plugins.register(Failing(), "failing")
    assert plugins.authenticate(credentials="secret") == "new@example.org"
    assert plugins.authenticate(credentials="else") is None


@pytest.mark.parametrize("answer", [7, "", True, ["x"]])
def test_what_is_no_user_authenticates_nobody(answer: Any) -> None:
    plugins = Plugins({})
    plugins.register(Knows(answer), "odd")
    assert plugins.authenticate(credentials="secret") is None


# -- narrowing
class Narrows:
    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    @hookimpl
    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec | None:
        return dataclasses.replace(spec, **self.changes)


def test_plugins_narrow_one_after_the_other() -> None:
    plugins = Plugins({})
    plugins.register(Narrows(network="none"), "no-network")
    plugins.register(Narrows(limits=Limits(pids=10)), "few-processes")
    narrowed = plugins.container_options(JOB, SPEC)
    assert (narrowed.network, narrowed.limits.pids, narrowed.argv) == ("none", 10, SPEC.argv)


def test_a_plugin_that_widens_ends_the_job_and_is_named() -> None:
    plugins = Plugins({})
    plugins.register(Narrows(limits=Limits(memory=1 << 40)), "greedy")
    with pytest.raises(PermanentError, match=r"plugin greedy may not .*memory can only shrink"):
        plugins.container_options(JOB, SPEC)


def test_a_plugin_that_fails_to_narrow_ends_the_job() -> None:
    plugins = Plugins({})
    plugins.register(Failing(), "failing")
    with pytest.raises(PermanentError, match="plugin failing failed"):
        plugins.container_options(JOB, SPEC)


@pytest.mark.parametrize(
    ("after", "complaint"),
    [
        pytest.param(change(), None, id="the same"),
        pytest.param(change(network="none"), None, id="no network"),
        pytest.param(change(limits=Limits(cpus=0.5, memory=1 << 20)), None, id="smaller limits"),
        pytest.param(change(env={"A": "1"}), None, id="fewer variables"),
        pytest.param(change(binds=SPEC.binds[:1]), None, id="fewer binds"),
        pytest.param(change(binds=(Bind(Path("/y"), "/ci/spool"),)), None, id="a bind made read-only"),
        pytest.param(change(image_id="sha256:2"), "image_id", id="another image"),
        pytest.param(change(argv=("sh",)), "argv", id="another command"),
        pytest.param(change(name="m"), "name", id="another name"),
        pytest.param(change(role="build"), "role", id="another role"),
        pytest.param(change(limits=Limits(cpus=2.0)), "cpus", id="more processors"),
        pytest.param(change(limits=Limits(pids=0)), "pids", id="no limit by zero"),
        pytest.param(change(limits=Limits(file_size=-1)), "file_size", id="no limit by minus one"),
        pytest.param(change(env={"A": "2"}), "variables", id="another variable"),
        pytest.param(change(env={**SPEC.env, "LD_PRELOAD": "x"}), "variables", id="a new variable"),
        pytest.param(change(binds=(Bind(Path("/"), "/host"),)), "/host", id="a new bind"),
        pytest.param(change(binds=(Bind(Path("/"), "/ci/tools"),)), "/ci/tools", id="another source"),
        pytest.param(
            change(binds=(Bind(Path("/x"), "/ci/tools", False),)), "read-only", id="a bind made writable"
        ),
        pytest.param("spec", "is not a ContainerSpec", id="something else"),
    ],
)
def test_what_narrows_and_what_does_not(after: Any, complaint: str | None) -> None:
    said = widening(SPEC, after)
    assert (said is None) if complaint is None else (said is not None and complaint in said)


def test_a_network_that_was_taken_away_cannot_come_back() -> None:
    assert widening(change(network="none"), SPEC) == "network can only be removed"
