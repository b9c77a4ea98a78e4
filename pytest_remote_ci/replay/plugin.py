"""The plugin that replaces the local collection and test loop by a remote session.

It implements only a few hooks and leaves the rest of the session to pytest, so progress, reporters, caches and exit
codes are pytest's own. The order matters: registered before `pytest_configure`, the plain `pytest_collection` and
`pytest_runtestloop` run after the terminal reporter and observers of other plugins, but before pytest's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from pytest_remote_ci.replay.gc_freeze import GcFreeze
from pytest_remote_ci.replay.interrupts import ReplayInterrupts
from pytest_remote_ci.replay.player import Player


class RemoteSessionPlugin:
    """The replay of one run, registered for one session in `pytest_cmdline_main`."""

    def __init__(self, player: Player, resources: ExitStack) -> None:
        """`resources` are closed at the end."""
        self._player = player
        self.interrupts = ReplayInterrupts(player)
        self._resources = resources
        self._session: pytest.Session | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self) -> None:
        """Switch off locally what the remote session does, before pytest's own plugins read the options."""
        self._player.configure()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        """Play up to the start of the collection, which includes the header."""
        self._session = session
        self._player.start(session)
        yield
        with self.interrupts.cancel():
            self._player.begin()
        if self._player.collects_first:
            session.config.pluginmanager.register(_CollectsFirst(self), "remote-ci-collects-first")

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Replace the local collection by the remote one."""
        session.items = []
        with self.interrupts.cancel():
            are_tests_known = self._player.play_collection()
        if are_tests_known:
            session.config.hook.pytest_collection_finish(session=session)
        return True

    def pytest_report_collectionfinish(self) -> list[str]:
        """Return the lines that remote plugins add after the collection."""
        return self._player.collection_lines()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replace the local test loop by the remote one."""
        player = self._player
        if player.shows_only_collection:
            player.leave()
            return True
        try:
            player.play_until("tests_over", stop=lambda: bool(session.shouldfail or session.shouldstop))
        except KeyboardInterrupt:
            self.interrupts.cancel_and_play_on()
            if not player.knows_interrupt:
                raise
        except BaseException as error:
            player.fail(str(error) or type(error).__name__)
            raise
        if session.shouldfail or session.shouldstop:
            player.end_locally()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        player.raise_outcome()
        return True

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Play one test; only called if another plugin watches this hook."""
        job = self._player.job_of(item.nodeid)
        if job is not None:
            job.play_test(item.nodeid)
        return True

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Pass on warnings of local plugins, to compare them with the recorded ones."""
        job = self._player.job_of(nodeid)
        if job is not None:
            job.note_warning(warning_message, nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, object] | None:
        """Return the status that remote plugins and conftests gave the report; mark allowed failures."""
        job = self._player.job_of(report.nodeid)
        if job is None:
            return None
        found = job.reports.status(report)
        if found is not None or not job.is_allowed or not report.failed:
            return found
        category, letter = ("failed", "F") if report.when == "call" else ("error", "E")
        return category, letter, (f"{category.upper()} (allowed)", {"yellow": True})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Play what remote plugins write into the summary, then add our own section."""
        with self.interrupts.abandon():
            self._player.play_until("end")
        self._player.write_summary(terminalreporter)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Play the end of the session around the local one, and set the exit status."""
        with self.interrupts.abandon():
            self._player.play_tests_end()
        self._player.prepare_reports()
        yield
        with self.interrupts.abandon():
            self._player.play_until("end")
        self._player.set_exit_status()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Wait for the end, and fetch the files; then close the connection."""
        with self._resources:
            try:
                if self._session is not None or self._player.is_interrupted:
                    self._player.finish()
                else:  # a local plugin rejected the configuration
                    self._player.cancel()
            except KeyboardInterrupt:
                if self._session is not None:
                    self._session.exitstatus = pytest.ExitCode.INTERRUPTED


def start_replay(config: pytest.Config, player: Player, resources: ExitStack) -> None:
    """Let the local session replay a run; call it before `config` is configured. Takes over the `resources`."""
    plugin = RemoteSessionPlugin(player, resources.pop_all())
    config.pluginmanager.register(plugin, "remote-ci-takeover")
    config.pluginmanager.register(plugin.interrupts, "remote-ci-interrupts")
    config.pluginmanager.register(GcFreeze(config), "remote-ci-gc-freeze")


class _CollectsFirst:
    """Plays the collection before the terminal reporter writes about it."""

    def __init__(self, plugin: RemoteSessionPlugin) -> None:
        self._plugin = plugin

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Play the collection."""
        return self._plugin.pytest_collection(session)
