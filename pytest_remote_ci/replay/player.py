"""Replay each event of a recorded session as the hook calls that pytest itself would have made.

The player pulls events only while a hook of `replay.plugin` waits for a certain point of the session, so the local
pytest is always in the same phase as the remote one. It does not know when it is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path, PurePath
from typing import Any

import pytest

from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.replay import reporters
from pytest_remote_ci.replay.collection import Collection
from pytest_remote_ci.replay.decode import Reports, exception_call, failed_reports, internal_error
from pytest_remote_ci.replay.events import Event, Source
from pytest_remote_ci.replay.handover import is_ours
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.screen import Screen, is_output
from pytest_remote_ci.replay.selection import Choice
from pytest_remote_ci.replay.tb_style import restyle
from pytest_remote_ci.wire.control_characters import escaped

_TRUNCATED = "the runner keeps no more results of this job: what follows is missing here"
#: Events that end the session even in the middle of a test.
_ENDS = ("interrupt", "internal_error", "tests_over", "died")


class Player:
    """Plays one session; owned by one `RemoteSessionPlugin`, or by a job of a run."""

    def __init__(
        self,
        config: pytest.Config,
        feed: Source,
        show: Callable[[Event], None],
        choice: Choice | None = None,
        *,
        root: Path | None = None,
        gathers: bool = False,
    ) -> None:
        """`show` gets the events that do not belong to the session: the runner's own log, changes of state.

        `choice`: the session is over, and these of its tests are shown. `root`: the local path of its rootdir.
        `gathers`: play each test as a whole when it is over, because other sessions are played in between.
        """
        self._config = config
        self._feed = feed
        self._show = show
        self._gathers = gathers
        self._places = PathMapper(root or config.rootpath)
        self.reports = Reports(config, self._places, self.notes_add)
        self._screen = Screen(config, self._places)
        #: Warnings of local plugins since the last test began: node id, category, text, file name.
        self._local_warnings: list[tuple[str, str, str, str]] = []
        self._is_replaying_warning = False
        self._choice = choice
        self.collection: Any = None
        self._last: Any = None
        self._passed_points: set[str] = set()
        #: Lines for the end of the session.
        self.notes: list[str] = []
        #: Kind → the session's event of that kind: "session", "tests_over", "end", "interrupt", "internal_error".
        self.said: dict[str, Event] = {}
        #: Node id → location of the tests that have begun and not ended.
        self.running: dict[str, Any] = {}
        #: Node ids of tests for which anything was reported.
        self.reported: set[str] = set()
        #: Node id of a running test → the phase last reported.
        self._phases: dict[str, str] = {}
        #: Whether local plugins watch each test through `pytest_runtest_protocol`.
        self.with_protocol = False
        #: Node id → held events of a test, played when it ends, because other tests are reported meanwhile.
        self._waiting: dict[str, list[Event]] = {}
        self.no_header = False
        #: Why nothing more can be played, else None.
        self.broken: str | None = None
        self.lost: ClientError | None = None

    def notes_add(self, line: str) -> None:
        """Add a line for the end of the session."""
        self.notes.append(escaped(line))

    def start(self, session: pytest.Session) -> None:
        """Prepare the player for a new local session, with a collection for it."""
        self.join(
            Collection(session, self.reports, self._places, is_late=self._feed.is_late, choice=self._choice)
        )

    def join(self, collection: Collection) -> None:
        """Prepare the player for a local session with this collection."""
        reporters.adopt(self._config, self._feed.peek("session"))
        self.collection = collection

    @property
    def has_started(self) -> bool:
        """Whether there is a local session to play in."""
        return self.collection is not None

    @property
    def is_measured(self) -> bool:
        """Whether pytest-cov measures in the job."""
        return bool(self.said.get("session", {}).get("measured"))

    # -- pulling

    def play_until(self, *points: str, stop: Callable[[], bool] = lambda: False) -> None:
        """Play events up to and including the first of these kinds, to the end, or until `stop` returns True."""
        if self.broken is not None or self._passed_points & set(points):
            return
        while True:
            event = self._next()
            if event is None:
                return
            self.play(event)
            if event.get("t") in points or stop() or self.broken is not None:
                return

    def play_to_the_end(self) -> None:
        """Play the remaining events, or discard them if nothing can be played; wait for the last one."""
        while (event := self._next()) is not None:
            if self.broken is None:
                self.play(event)

    def play_collection(self) -> bool:
        """Play up to the first test; return whether a tree was collected."""
        while True:
            event = self._next()
            if event is None:
                return self._has_tree
            if event.get("t") in ("started", "tests_over"):
                self._feed.hold([event])
                return self._has_tree
            self.play(event)
            if event.get("t") == "collection_lines" or self.broken is not None:
                return self._has_tree

    @property
    def places(self) -> PathMapper:
        """The mapping of remote paths to local ones."""
        return self._places

    @property
    def _has_tree(self) -> bool:
        return "collected" in self._passed_points

    def play_test(self, nodeid: str) -> None:
        """Play everything up to the end of this test."""
        waiting = self._waiting.pop(nodeid, None)
        self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=self.running[nodeid])
        for held in (waiting or ())[1:]:
            self.play(held)
        while waiting is None and nodeid in self.running and (event := self._next()) is not None:
            if event.get("t") in _ENDS:  # for the caller that plays the session
                self._feed.hold([event])
                return
            self.play(event)

    def _next(self) -> Event | None:
        if self.lost is not None:
            return None
        try:
            event = self._feed.next()
        except ClientError as error:
            self.lost = error
            self.broken = str(error)
            return None
        return event

    def play(self, event: Event) -> None:
        """Play one event."""
        if self.is_filtered and self.collection.unchosen.covers(event, others_run=bool(self.running)):
            return
        if self._gathers and self._waiting and (is_output(event) or event.get("t") == "terminal"):
            next(reversed(self._waiting.values())).append(event)
            return
        kind = event.get("t")
        if kind is None:
            self._play_text(event)
            return
        handler = self._PLAYS.get(kind)
        if handler is None:
            return
        self._passed_points.add(kind)
        try:
            handler(self, event)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Tests can write records, too, so a malformed one is reported; errors of local plugins are raised.
            if not is_ours(error):
                raise
            self.broken = (
                f"a record of kind {kind!r} makes no sense; `--remote-ci-text` shows what pytest printed"
            )

    def _play_text(self, event: Event) -> None:
        """Play an event that is not a record: output of tests, or a message of the runner."""
        if is_output(event):
            self._screen.write(event, at_the_end="end" in self.said)
        elif event.get("type") in ("log", "state") and event.get("stream") != "terminal":
            self._show(event)

    # -- session

    def _remember(self, event: Event) -> None:
        self.said[event["t"]] = event

    def _summary(self, event: Event) -> None:
        self._remember(event)
        reporters.adopt_metadata(self._config, event)

    def _header(self, event: Event) -> None:
        if not self.no_header:
            self._screen.header(event, self.said["session"], self.collection)

    def _begin(self, event: Event) -> None:
        self._remember(event)
        self._places.learn(str(event["rootdir"]))
        self.reports.pytest_there = str(event.get("pytest") or "")

    def _died(self, event: Event) -> None:
        self._remember(event)
        self.notes_add(
            f"{event['text']}; it was started again for the rest" if event["again"] else str(event["text"])
        )

    def _note(self, event: Event) -> None:
        self.notes_add(self._places.text(str(event["text"])))

    def _internal_error(self, event: Event) -> None:
        self._remember(event)
        self._config.hook.pytest_internalerror(**internal_error(event, self._places))

    def _warning(self, event: Event) -> None:
        """Report a warning once, although a plugin installed on both sides emits it twice."""
        arguments = self.reports.warning(event)
        identity = _warning_identity(arguments["warning_message"], arguments["nodeid"])
        if identity in self._local_warnings:
            self._local_warnings.remove(identity)
            return
        self._is_replaying_warning = True
        try:
            self._config.hook.pytest_warning_recorded.call_historic(kwargs=arguments)
        finally:
            self._is_replaying_warning = False

    def note_warning(self, message: warnings.WarningMessage, nodeid: str) -> None:
        """Remember a warning that the local pytest recorded itself."""
        if not self._is_replaying_warning:
            self._local_warnings.append(_warning_identity(message, nodeid))

    # -- tests

    def _started(self, event: Event) -> None:
        self._local_warnings.clear()
        nodeid, location = event["id"], self._places.location(event["location"])
        item = self.collection.items.get(nodeid)
        self.running[nodeid] = item.location if item is not None and item.location == location else location
        if self._gathers:
            self._waiting[nodeid] = [event]
        elif not self.with_protocol or item is None:
            self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        elif self.is_distributed:
            self._waiting[nodeid] = [event]
        else:
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=None)

    @property
    def is_distributed(self) -> bool:
        """Whether xdist runs in the job, so that several tests run at a time."""
        return bool(self.said.get("session", {}).get("xdist"))

    def _report(self, event: Event) -> None:
        if self._waits(event["d"]["nodeid"], event):
            return
        report = self._last = self.reports.report(event)
        if self._choice is not None:
            restyle(report, str(getattr(self._config.option, "tbstyle", "auto")))
        with self._screen.unseen(event) if event.get("unseen") else nullcontext():
            self._say(report, report.nodeid)

    def _passed(self, event: Event) -> None:
        nodeid = event["id"]
        if self._waits(nodeid, event):
            return
        item = self.collection.items.get(nodeid)
        self._last = self.reports.passes.report(event, self.running.get(nodeid), item)
        self._say(self._last, nodeid)

    def _say(self, report: Any, nodeid: str) -> None:
        self._config.hook.pytest_runtest_logreport(report=report)
        if nodeid not in self.reported:
            self.reported.add(report.nodeid)  # the report's id object, which others store, too
        if nodeid in self.running:
            self._phases[nodeid] = str(report.when)

    def _logs(self, event: Event) -> None:
        if not self._waits(event["id"], event):
            self.reports.take_logs(event)

    def _exception(self, event: Event) -> None:
        if event.get("found"):
            self.collection.exception(event)
            return
        if self._waits(event["id"], event):
            return
        item = self.collection.items.get(event["id"])
        if item is not None and self._last is not None and self._last.nodeid == event["id"]:
            call = exception_call(event, self._last, self._places)
            self._config.hook.pytest_exception_interact(node=item, call=call, report=self._last)

    def _finished(self, event: Event) -> None:
        nodeid = event["id"]
        if self._waits(nodeid, event):
            self._tell(nodeid)
            return
        self.running.pop(nodeid, None)
        self._phases.pop(nodeid, None)
        self.reports.forget(nodeid)
        self._config.hook.pytest_runtest_logfinish(
            nodeid=nodeid, location=self._places.location(event["location"])
        )

    def _waits(self, nodeid: str, event: Event) -> bool:
        waiting = self._waiting.get(nodeid)
        if waiting is not None:
            waiting.append(event)
        return waiting is not None

    def _tell(self, nodeid: str) -> None:
        """Play a test that was held until its end."""
        item = self.collection.items.get(nodeid)
        if self.with_protocol and item is not None:
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        else:
            self.play_test(nodeid)

    def fail_running(self, why: str) -> int:
        """Fail the tests that were running when the remote pytest ended; return their number."""
        for nodeid in list(self._waiting):
            self.play_test(nodeid)
        running = list(self.running.items())
        self.running.clear()
        hook = self._config.hook
        sections = self.said.get("died", {}).get("sections") or ()
        written = [(str(name), str(text)) for name, text in sections]
        for nodeid, location in running:
            words = f"while running {nodeid}"
            text = self._places.text(why if words in why else f"{why} {words}")
            self.reported.add(nodeid)
            for report in failed_reports(nodeid, location, text, self._phases.get(nodeid), written):
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
        return len(running)

    def skip_to_the_end(self) -> None:
        """Wait for the job's end; the events before it are played later."""
        events: list[Event] = []
        while self.broken is None and (event := self._next()) is not None:
            events.append(event)
        self._feed.hold(events)

    @property
    def not_run(self) -> int:
        """The number of collected tests for which nothing was reported."""
        return len(self.collection.expected - self.reported) if self.collection is not None else 0

    @property
    def has_results(self) -> bool:
        """Whether anything was reported for a test."""
        return bool(self.reported)

    @property
    def is_filtered(self) -> bool:
        """Whether only a part of the session is shown."""
        return self.collection is not None and bool(self.collection.unchosen.nodeids)

    _PLAYS: dict[str, Callable[[Player, Event], None]] = {  # noqa: RUF012 - filled once, here
        "session": _begin,
        "header": _header,
        "collecting": _remember,
        "tests_over": _remember,
        "summary": _summary,
        "end": _remember,
        "interrupt": _remember,
        "internal_error": _internal_error,
        "stopped": _remember,
        "died": _died,
        "note": _note,
        "junit": lambda player, event: reporters.play_junit(player._config, event),
        "junit_attribute": lambda player, event: reporters.play_junit(player._config, event),
        "worker": lambda player, event: player.reports.workers.update({event["id"]: event["line"]}),
        "truncated": lambda player, event: player.notes_add(_TRUNCATED),
        "warning": _warning,
        "terminal": lambda player, event: player._screen.call(event),
        "collect_report": lambda player, event: player.collection.report(event),
        "deselected": lambda player, event: player.collection.deselected(event),
        "tree": lambda player, event: player.collection.grow(event),
        "collected": lambda player, event: player.collection.complete(event),
        "collected_ids": lambda player, event: player.collection.add_ids(event),
        "collection_lines": lambda player, event: player.collection.take_lines(event),
        "started": _started,
        "report": _report,
        "passed": _passed,
        "exception": _exception,
        "compared": lambda player, event: reporters.play_comparison(player._config, event, player._places),
        "logs": _logs,
        "finished": _finished,
    }


def _warning_identity(message: warnings.WarningMessage, nodeid: str) -> tuple[str, str, str, str]:
    return nodeid, message.category.__name__, str(message.message), PurePath(message.filename).name
