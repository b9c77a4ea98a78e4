"""The plugin that replaces the local collection and test loop by a remote session.

It implements only a few hooks and leaves the rest of the session to pytest, so progress, reporters, caches and exit
codes are pytest's own. The order matters: registered before `pytest_configure`, the plain `pytest_collection` and
`pytest_runtestloop` run after the terminal reporter and observers of other plugins, but before pytest's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, NoVerdict
from pytest_remote_ci.replay import plugin_diff, running_test
from pytest_remote_ci.replay.events import Event, EventSource
from pytest_remote_ci.replay.handover import is_heard, is_watched, switch_off
from pytest_remote_ci.replay.lateness import backdate, seconds_between
from pytest_remote_ci.replay.player import Player
from pytest_remote_ci.replay.selection import Choice
from pytest_remote_ci.terminal.display import Display, exit_code

#: A cache entry that pytest carries from one session to the next and that only the remote pytest can update.
_STEPWISE = "cache/stepwise"
#: Report plugins with hooks by which a project can change the report.
_WITH_HOOKS = {"pytest-html", "pytest-json-report"}
_WITHOUT_HOOKS = (
    "pytest died in the job, so the HTML and JSON reports were written here: all results are in them, but nothing "
    "that hooks of the project add"
)
#: Options that select tests: a replay applies them to the stored results.
_CHOOSING = ("maxfail", "keyword", "markexpr")


class RemoteSessionPlugin:
    """The replay of one job, registered for one session in `pytest_cmdline_main`."""

    def __init__(
        self,
        config: pytest.Config,
        feed: EventSource,
        display: Display,
        cancel: Callable[[], bool],
        resources: ExitStack,
        choice: Choice | None = None,
    ) -> None:
        """`cancel` is called when this session is interrupted; it returns whether the remote session will now end.

        `resources` are closed at the end. With `choice`, the session is over, and these of its tests are shown.
        """
        self._config = config
        show = display.show if choice is None else lambda event: None  # the runner's messages are outdated
        self._player = Player(config, feed, show, choice)
        #: Whether a finished session is replayed: local plugins must not treat its results as new.
        self._is_replay = choice is not None
        self._feed = feed
        self._say = display.say
        self._cancel = cancel
        self._resources = resources
        self._session: Any = None
        self._forced_code: int | None = None
        #: Whether the developer has interrupted the session.
        self._is_interrupted = False
        #: Whether the reason for the missing verdict was shown.
        self._has_said_why = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Switch off locally what the remote session does, before pytest's own plugins read the options."""
        self._player.no_header = getattr(config.option, "no_header", False)
        switch_off(config, _CHOOSING if self._is_replay else ())

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Generator[None, None, None]:
        """Start the player and play up to the start of the collection, which includes the header."""
        self._session = session
        self._player.start(session)
        yield
        self._player.with_protocol = is_watched(session.config)
        with self._cancelled_by_interrupts():
            self._player.play_until("collecting")
        if self._player.is_distributed:
            session.config.pluginmanager.register(_Distributed(self._player), "remote-ci-distributed")
            reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.showfspath = False
        elif is_heard(session.config):
            self._player.with_protocol = True
        running_test.watch(session.config, self._feed)

    def pytest_collection(self, session: pytest.Session) -> bool:
        """Replace the local collection by the remote one."""
        session.items = []
        with self._cancelled_by_interrupts():
            has_tree = self._player.play_collection()
        if has_tree or "died" in self._player.said:
            session.config.hook.pytest_collection_finish(session=session)
        return True

    def pytest_report_collectionfinish(self) -> list[str]:
        """Return the lines that remote plugins add after the collection."""
        return list(self._player.collection.lines)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replace the local test loop by the remote one."""
        if self._is_replay and session.config.option.collectonly:
            self._leave()
            return True
        try:
            self._player.play_until("tests_over", stop=lambda: bool(session.shouldfail or session.shouldstop))
        except KeyboardInterrupt:
            self._interrupted()
            if "interrupt" not in self._player.said:
                raise
        except BaseException as error:  # a local plugin failed: nothing more can be played
            self._player.broken = str(error) or type(error).__name__
            self._cancel()
            raise
        self._raise_own_end(session)
        self._raise_remote_outcome(session)
        return True

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        """Play one test; only called if another plugin watches this hook."""
        self._player.play_test(item.nodeid)
        return True

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Pass on warnings of local plugins, to compare them with the recorded ones."""
        self._player.note_warning(warning_message, nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """Return the status that remote plugins and conftests gave the report."""
        return self._player.reports.status(report)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Play what remote plugins write into the summary, then add our own notes."""
        with self._held_interrupts():
            self._player.play_until("end")
        if self._player.notes:
            terminalreporter.write_sep("=", "remote-ci", yellow=True)
            for line in self._player.notes:
                terminalreporter.write_line(line)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Use the remote exit status: remote plugins and conftests may have changed it."""
        player = self._player
        if session.exitstatus == pytest.ExitCode.USAGE_ERROR:
            player.broken = "wrong arguments"  # the arguments of a replay
        with self._held_interrupts():
            player.play_until("summary", "end")
            if player.is_measured and player.broken is None:
                self._bring_coverage_home()
        if self._feed.is_late:
            self._set_back()
        if self._is_replay or player.collection.is_elsewhere:
            cache: Any = getattr(session.config, "cache", None)
            if cache is not None:
                cache.set = lambda key, value: None
        yield
        with self._held_interrupts():
            self._player.play_until("end")
        end = player.said.get("end")
        if end is not None and player.broken is None and not player.is_filtered:
            session.exitstatus = _status(int(end["exitstatus"]))
            cache = getattr(session.config, "cache", None)
            # The key becomes a file name: accept only the one that the recorder knows.
            if cache is not None and _STEPWISE in end["cache"]:
                cache.set(_STEPWISE, end["cache"][_STEPWISE])
        elif self._forced_code is not None:
            session.exitstatus = _status(self._forced_code)

    def _bring_coverage_home(self) -> None:
        """Fetch the coverage data in this phase, where editors look for it.

        It becomes available when the job is over, a moment after its tests.
        """
        with suppress(ClientError):  # raised again when the events are played
            self._feed.read_ahead()
            self._feed.fetch_artifacts(is_early=True)

    def _set_back(self) -> None:
        first, last = (self._player.said.get(kind, {}).get("timestamp") for kind in ("session", "tests_over"))
        seconds = seconds_between(first, last)
        if seconds is not None:
            backdate(self._config, seconds)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Wait for the end of the job, which may still send output; then close the connection."""
        with self._resources:
            try:
                if self._player.has_started or self._is_interrupted:
                    self._player.play_to_the_end()
                    self._bring_reports_home()
                    self._apply_runner_verdict()
                    self._confirm_cancellation()
                    self._compare_plugins()
                else:  # a local plugin rejected the configuration
                    self._cancel()
            except KeyboardInterrupt:
                if self._session is not None:
                    self._session.exitstatus = pytest.ExitCode.INTERRUPTED

    def _bring_reports_home(self) -> None:
        """Fetch the job's reports; they replace the local ones if the job's pytest saw the whole session."""
        player = self._player
        has_died = "died" in player.said
        is_whole = "end" in player.said and not has_died and player.broken is None and not player.is_filtered
        self._feed.fetch_artifacts(is_whole=is_whole, has_died=has_died)
        there = set(player.said.get("session", {}).get("plugins") or ())
        if has_died and self._feed.run.has_reports_here and there & _WITH_HOOKS:
            self._say(f"remote-ci: {_WITHOUT_HOOKS}")

    def _confirm_cancellation(self) -> None:
        """Confirm that the cancelled job is over, and not merely asked to end."""
        complete = self._feed.complete or {}
        if self._is_interrupted and (complete.get("status") == "cancelled" or complete.get("cancelled")):
            self._say(f"Job {self._feed.run.job_id} was cancelled.")

    def _compare_plugins(self) -> None:
        plugins = self._player.said.get("session", {}).get("plugins")
        if plugins is None or self._is_replay or self._is_interrupted or self._player.broken is not None:
            return
        failed = int(self._session.exitstatus) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        line = plugin_diff.remark(
            plugins, failed=failed, is_quiet=getattr(self._config.option, "verbose", 0) < 0
        )
        if line:
            self._say(f"remote-ci: {line}")

    def _apply_runner_verdict(self) -> None:
        """Apply the runner's verdict: pytest's session may have been cut short by a timeout or a cancellation."""
        player = self._player
        if (
            self._feed.complete is None
            or self._is_interrupted
            or player.is_filtered
            or player.broken is not None
        ):
            return
        try:
            code, why = exit_code(self._feed.complete), self._feed.complete.get("reason")
        except NoVerdict as error:
            self._session.exitstatus = error.exit_code
            if not self._has_said_why:
                self._say(f"remote-ci: {error}")
            return
        if code and self._session.exitstatus == 0:  # the job failed after its session
            self._session.exitstatus = _status(code)
            self._say(f"remote-ci: {why or f'the remote pytest exited with code {code}'}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Handle Ctrl-C outside our waiting hooks: nothing more of the remote session is shown."""
        if self._is_interrupted or "interrupt" in self._player.said:
            return
        if issubclass(excinfo.type, KeyboardInterrupt):
            self._player.broken = "interrupted"
            self._stop()

    @contextmanager
    def _cancelled_by_interrupts(self) -> Generator[None, None, None]:
        try:
            yield
        except KeyboardInterrupt:
            self._interrupted()
            raise

    @contextmanager
    def _held_interrupts(self) -> Generator[None, None, None]:
        """Cancel and stop waiting on an interrupt: the session is ending anyway."""
        try:
            yield
        except KeyboardInterrupt:
            self._stop()
            self._leave()
            self._forced_code = exit_codes.INTERRUPTED

    def _interrupted(self) -> None:
        """Cancel on Ctrl-C, and play what the remote pytest still reports."""
        try:
            self._stop()
            self._player.play_until("tests_over")
        except KeyboardInterrupt:
            self._leave()

    def _stop(self) -> None:
        """Cancel the job; its last events are still expected unless the cancellation fails."""
        self._is_interrupted = True
        try:
            if not self._cancel():
                self._leave()
        except KeyboardInterrupt:
            self._leave()

    def _leave(self) -> None:
        """Stop waiting for events."""
        self._player.broken = "interrupted"
        self._feed.close()

    def _raise_own_end(self, session: pytest.Session) -> None:
        """Leave the loop because a local plugin, or ``--maxfail`` of a replay, asks for it."""
        if not (session.shouldfail or session.shouldstop):
            return
        self._player.broken = "stopped here"
        if self._is_replay:
            self._feed.close()
        else:
            self._stop()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        raise session.Interrupted(session.shouldstop)

    def _raise_remote_outcome(self, session: pytest.Session) -> None:
        """Leave the loop as the remote pytest left it; a filtered session decides for itself."""
        player = self._player
        said = player.said
        if player.is_filtered and "tests_over" in said:
            failed = session.testsfailed
            if failed and not session.config.option.continue_on_collection_errors and not player.has_results:
                raise session.Interrupted(f"{failed} error{'s' if failed != 1 else ''} during collection")
            return
        if "stopped" in said and not self._is_interrupted:  # not by a test: the job's end has the reason
            player.skip_to_the_end()
            self._raise_lost(session)
            return
        if "internal_error" in said:
            config: Any = session.config
            config.notify_exception = lambda excinfo, option=None: None  # it was already reported
            raise RuntimeError("the remote pytest had an internal error")
        if "interrupt" in said:
            raise_interrupt(session, said["interrupt"], player)
        over = said.get("tests_over")
        if over is None:
            self._raise_lost(session)
            return
        if over["shouldfail"]:
            session.shouldfail = over["shouldfail"]
            raise session.Failed(over["shouldfail"])
        if over["shouldstop"]:
            session.shouldstop = over["shouldstop"]
            raise session.Interrupted(over["shouldstop"])
        if "died" in said:
            self._say_what_did_not_run()

    def _say_what_did_not_run(self) -> None:
        if self._player.not_run:
            self._player.notes_add(f"{self._player.not_run} test(s) were not run")

    def _raise_lost(self, session: pytest.Session) -> None:
        """Report a remote session without an end: fail the tests that were running, and raise the reason."""
        player, complete = self._player, self._feed.complete or {}
        code, why = exit_codes.NO_VERDICT, player.broken or "the remote pytest ended"
        if player.lost is not None:
            code = exit_codes.of_lost(player.lost.exit_code)
        elif complete:
            why = str(
                complete.get("reason") or f"the remote pytest exited with code {complete.get('exit_code')}"
            )
            try:
                code = exit_code(complete) or 1
            except NoVerdict as error:
                code, why = error.exit_code, str(error)
        failed = player.fail_running(str(complete.get("reason") or why))
        died = player.said.get("died", {})
        self._forced_code = 1 if failed and complete.get("status") == "completed" else code
        self._say_what_did_not_run()
        if died.get("collecting"):
            raise session.Interrupted("1 error during collection")
        if not (
            failed or (died and session.testsfailed) or player.is_filtered
        ):  # otherwise the failure and the number of tests not run are shown
            self._has_said_why = True
            raise pytest.exit.Exception(why, returncode=code)


class _Distributed:
    """Plays the collection early if xdist runs in the job: its lines replace "collecting …"."""

    def __init__(self, player: Player) -> None:
        self._player = player

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Play the collection before the terminal reporter writes about it."""
        session.items = []
        self._player.play_collection()
        return True


def raise_interrupt(session: pytest.Session, event: Event, player: Player) -> None:
    """Raise the exception that ended the remote session, with its remote file and line."""
    name, module, message = event["name"], event["module"], event["message"]
    error: BaseException
    if name == "Exit":
        error = pytest.exit.Exception(message, returncode=event["code"])
    elif name == "Interrupted" and module == "_pytest.main":
        raise session.Interrupted(message)
    else:
        kind: Any = KeyboardInterrupt
        if name != "KeyboardInterrupt":
            kind = type(name, (KeyboardInterrupt,), {"__module__": module})
        error = kind(message) if message else kind()
    if not event["at"]:
        raise error
    path, line = player.places.place(event["at"])
    # pytest shows file and line of the innermost frame: compile one with the remote position.
    exec(compile("\n" * (line - 1) + "raise error", path, "exec"), {"error": error})  # noqa: S102


def _status(code: int) -> int | pytest.ExitCode:
    try:
        return pytest.ExitCode(code)
    except ValueError:
        return code
