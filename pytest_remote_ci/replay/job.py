"""One job of the run: replay each event of its recorded session as the hook calls that pytest itself would have made.

The only job of its run has no label, and its session and the local one are always in the same phase: events are pulled
while a hook of `replay.plugin` waits for a certain point. The jobs of a pipeline have labels, and their events arrive
interleaved and are pushed: those of tests are played at once; what plugins write at the end of a job's session waits
for the end of the local one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pytest

from pytest_remote_ci.replay import missing_services, reporters
from pytest_remote_ci.replay.collection import Collection
from pytest_remote_ci.replay.decode import Reports, exception_call, failed_reports, internal_error
from pytest_remote_ci.replay.event_source import (
    OLD_RUNNER,
    Event,
    EventSource,
    is_text_only,
    why_not_recorded,
)
from pytest_remote_ci.replay.labels import Labelling
from pytest_remote_ci.replay.last_failed import note_collected
from pytest_remote_ci.replay.nodes import Tree
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import OURS, count_collected
from pytest_remote_ci.replay.screen import Screen, is_output
from pytest_remote_ci.replay.selection import Choice
from pytest_remote_ci.replay.tb_style import restyle
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire.control_characters import escaped

_TRUNCATED = "the runner stores no more results of this job; the rest is missing here"
#: Events that end the session even in the middle of a test.
_ENDS = ("interrupt", "internal_error", "tests_over", "died")
#: Kinds of events that are played at the end of the local session, once the tests of a job with a label are over.
_SAID_LAST = ("terminal", "summary", "end")
#: Kinds of events after which it is known which tests will run.
_COLLECTED = ("collected", "collected_ids")


class Job:
    """Plays a job without a label; owned by the `Player` of its run."""

    def __init__(
        self,
        config: pytest.Config,
        events: EventSource,
        show: Callable[[Event], None] = lambda event: None,
        choice: Choice | None = None,
        *,
        gathers: bool = False,
    ) -> None:
        """`show` gets the events that do not belong to the session: the runner's own log, changes of state.

        `choice`: the session is over, and these of its tests are shown. `gathers`: play each test as a whole when it
        is over, because other jobs are played in between.
        """
        self._config = config
        self._events = events
        self._show = show
        self._choice = choice
        self._gathers = gathers
        self._map_paths_to(config.rootpath)
        #: Warnings of local plugins since the last test began: node id, category, text, file name.
        self._local_warnings: list[tuple[str, str, str, str]] = []
        self._is_replaying_warning = False
        self.collection: Any = None
        self._last: Any = None
        self._passed_points: set[str] = set()
        #: Lines for the end of the session.
        self.notes: list[str] = []
        #: Kind → the session's event of that kind: "session", "tests_over", "end", "interrupt", "internal_error".
        self.newest: dict[str, Event] = {}
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
        #: Whether failures do not fail the run.
        self.is_allowed = False
        #: Number of failures reported for the job.
        self.failures = 0

    def _map_paths_to(self, root: Path) -> None:
        """Set the local path of the session's rootdir."""
        self.places = PathMapper(root)
        self.reports = Reports(self._config, self.places, self.notes_add)
        self._screen = Screen(self._config, self.places)

    def _note_missing_service(self, report: Any) -> None:
        """Add a line, once, if a test failed because a server is missing in the job."""
        line = missing_services.hint(report.longrepr)
        if line is not None and line not in self.notes:
            self.notes_add(line)

    def notes_add(self, line: str) -> None:
        """Add a line for the end of the session."""
        self.notes.append(escaped(line))

    def start(self, session: pytest.Session) -> None:
        """Prepare the job for a new local session, with a collection for it."""
        self.join(
            Collection(session, self.reports, self.places, is_late=self._events.is_late, choice=self._choice)
        )

    def join(self, collection: Collection) -> None:
        """Prepare the job for a local session with this collection."""
        reporters.adopt(self._config, self._events.peek("session"))
        self.collection = collection

    @property
    def has_started(self) -> bool:
        """Whether there is a local session to play in."""
        return self.collection is not None

    @property
    def is_measured(self) -> bool:
        """Whether pytest-cov measures in the job."""
        return bool(self.newest.get("session", {}).get("measured"))

    def has_passed(self, *points: str) -> bool:
        """Whether an event of one of these kinds was played."""
        return not self._passed_points.isdisjoint(points)

    def play_test(self, nodeid: str) -> None:
        """Play everything up to the end of this test."""
        waiting = self._waiting.pop(nodeid, None)
        self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=self.running[nodeid])
        for held in (waiting or ())[1:]:
            self.play(held)
        while waiting is None and nodeid in self.running and (event := self.next()) is not None:
            if event.get("t") in _ENDS:  # for the caller that plays the session
                self._events.hold([event])
                return
            self.play(event)

    def next(self) -> Event | None:
        """Return the next event; None after the last."""
        event = self._events.pull()
        if event is None and self._events.lost is not None:
            self.lose(str(self._events.lost))
        return event

    def lose(self, why: str) -> None:
        """Note that no more events will arrive."""
        self.broken = why

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
            if not _is_ours(error):
                raise
            self.broken = (
                f"a record of kind {kind!r} is invalid; use --remote-ci-text to see what pytest printed"
            )

    def _play_text(self, event: Event) -> None:
        """Play an event that is not a record: output of tests, or a message of the runner."""
        if is_output(event):
            self._screen.write(event, at_the_end="end" in self.newest)
        elif event.get("type") in ("log", "state") and event.get("stream") != "terminal":
            self._show(event)

    # -- session

    def _remember(self, event: Event) -> None:
        self.newest[event["t"]] = event

    def _summary(self, event: Event) -> None:
        self._remember(event)
        reporters.adopt_metadata(self._config, event)

    def _header(self, event: Event) -> None:
        if not self.no_header:
            self._screen.header(event, self.newest["session"], self.collection)

    def _begin(self, event: Event) -> None:
        self._remember(event)
        self.places.learn(str(event["rootdir"]))
        self.reports.remote_pytest = str(event.get("pytest") or "")

    def _died(self, event: Event) -> None:
        self._remember(event)
        self.notes_add(
            f"{event['text']}; it was started again for the rest" if event["again"] else str(event["text"])
        )

    def _note(self, event: Event) -> None:
        self.notes_add(self.places.text(str(event["text"])))

    def _internal_error(self, event: Event) -> None:
        self._remember(event)
        self._config.hook.pytest_internalerror(**internal_error(event, self.places))

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
        nodeid, location = event["id"], self.places.location(event["location"])
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
        return bool(self.newest.get("session", {}).get("xdist"))

    def _report(self, event: Event) -> None:
        if self._waits(event["d"]["nodeid"], event):
            return
        report = self._last = self.reports.report(event)
        if self._choice is not None:
            restyle(report, str(getattr(self._config.option, "tbstyle", "auto")))
        with self._screen.unseen(event) if event.get("unseen") else nullcontext():
            self._log_report(report, report.nodeid)

    def _passed(self, event: Event) -> None:
        nodeid = event["id"]
        if self._waits(nodeid, event):
            return
        item = self.collection.items.get(nodeid)
        self._last = self.reports.passes.report(event, self.running.get(nodeid), item)
        self._log_report(self._last, nodeid)

    def _log_report(self, report: Any, nodeid: str) -> None:
        self._config.hook.pytest_runtest_logreport(report=report)
        if report.failed:
            self._note_missing_service(report)
        if nodeid not in self.reported:
            self.reported.add(report.nodeid)  # the report's id object, which others store, too
        if nodeid in self.running:
            self._phases[nodeid] = str(report.when)

    def _logs(self, event: Event) -> None:
        if not self._waits(event["id"], event):
            self.reports.store_logs(event)

    def _exception(self, event: Event) -> None:
        if event.get("found"):
            self.collection.exception(event)
            return
        if self._waits(event["id"], event):
            return
        item = self.collection.items.get(event["id"])
        if item is not None and self._last is not None and self._last.nodeid == event["id"]:
            call = exception_call(event, self._last, self.places)
            self._config.hook.pytest_exception_interact(node=item, call=call, report=self._last)

    def _finished(self, event: Event) -> None:
        nodeid = event["id"]
        if self._waits(nodeid, event):
            self._play_held(nodeid)
            return
        self.running.pop(nodeid, None)
        self._phases.pop(nodeid, None)
        self.reports.forget(nodeid)
        self._config.hook.pytest_runtest_logfinish(
            nodeid=nodeid, location=self.places.location(event["location"])
        )

    def _waits(self, nodeid: str, event: Event) -> bool:
        waiting = self._waiting.get(nodeid)
        if waiting is not None:
            waiting.append(event)
        return waiting is not None

    def _play_held(self, nodeid: str) -> None:
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
        sections = self.newest.get("died", {}).get("sections") or ()
        written = [(str(name), str(text)) for name, text in sections]
        for nodeid, location in running:
            words = f"while running {nodeid}"
            text = self.places.text(why if words in why else f"{why} {words}")
            self.reported.add(nodeid)
            for report in failed_reports(nodeid, location, text, self._phases.get(nodeid), written):
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
        return len(running)

    def skip_to_the_end(self) -> None:
        """Wait for the job's end; the events before it are played later."""
        events: list[Event] = []
        while self.broken is None and (event := self.next()) is not None:
            events.append(event)
        self._events.hold(events)

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

    _PLAYS: dict[str, Callable[[Job, Event], None]] = {  # noqa: RUF012 - filled once, here
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
        "junit": lambda job, event: reporters.play_junit(job._config, event),
        "junit_attribute": lambda job, event: reporters.play_junit(job._config, event),
        "worker": lambda job, event: job.reports.workers.update({event["id"]: event["line"]}),
        "truncated": lambda job, event: job.notes_add(_TRUNCATED),
        "warning": _warning,
        "terminal": lambda job, event: job._screen.call(event),
        "collect_report": lambda job, event: job.collection.report(event),
        "deselected": lambda job, event: job.collection.deselected(event),
        "tree": lambda job, event: job.collection.grow(event),
        "collected": lambda job, event: job.collection.complete(event),
        "collected_ids": lambda job, event: job.collection.add_ids(event),
        "collection_lines": lambda job, event: job.collection.store_lines(event),
        "started": _started,
        "report": _report,
        "passed": _passed,
        "exception": _exception,
        "compared": lambda job, event: reporters.play_comparison(job._config, event, job.places),
        "logs": _logs,
        "finished": _finished,
    }


class LabelledCollection(Collection):
    """One job's part of the tests of the local session."""

    labelling: Labelling

    def add_ids(self, event: Event) -> None:
        """Add tests without collector reports, and count them for the terminal, which counts from such reports."""
        super().add_ids(event)
        reporter: Any = self._session.config.pluginmanager.get_plugin("terminalreporter")
        count_collected(reporter, len(event["ids"]))

    def _set_items(self, items: list[Any]) -> None:
        self._session.items = [*self._session.items, *items]

    def _remember(self, items: list[Any]) -> None:
        found = [self.labelling.plain(item.nodeid) for item in items]
        note_collected(self._session.config, [nodeid for nodeid in found if nodeid is not None])


class PipelineJob(Job):
    """Plays one attempt of a job of a pipeline; its node ids begin with its label."""

    def __init__(self, session: pytest.Session, planned: Mapping[str, Any], label: str, place: Place) -> None:
        """`planned`: the job's row in the run; `place`: the submitted project and the job's folder in it."""
        super().__init__(session.config, EventSource(), gathers=True)
        self.no_header = True
        self.name = str(planned["name"])
        self.label = label
        self.is_allowed = bool(planned["allow_failure"])
        self.labelling = Labelling(label)
        self._session = session
        self._place = place
        self._early: list[Event] = []
        self._late: list[Event] = []
        #: Why there is only a log, else None.
        self.unrecorded: str | None = None
        #: The job's last event, else None.
        self.complete: Event | None = None
        #: Whether this session cancelled the job: the test that was running has not failed then.
        self.is_stopped_locally = False

    @property
    def is_collected(self) -> bool:
        """Whether it is known which tests will run."""
        return self.has_passed(*_COLLECTED)

    @property
    def tests(self) -> int:
        """The number of the job's tests."""
        return len(self.collection.items) if self.has_started else 0

    @property
    def reported_nodes(self) -> Iterable[str]:
        """Node ids of tests and collectors for which anything was reported."""
        return {*self.reported, *self.collection.collectors} if self.has_started else ()

    def handle(self, event: Event) -> None:
        """Handle the next event of this attempt."""
        if event.get("type") == "complete":
            self.complete = event
            self._fail_running(str(event.get("reason") or "the remote pytest ended"))
        elif self._session.shouldfail or self._session.shouldstop:
            return  # the job sent this before it was stopped
        elif not self.has_started:
            self._await_session(event)
        elif self._belongs_to_the_end(event):
            self._late.append(event)
        else:
            self._play_labelled(event)

    def lose(self, why: str) -> None:
        """Fail the running tests, because no more events will arrive."""
        if self.complete is None:
            self._fail_running(why)

    def play_the_end(self, heading: Callable[[str], None]) -> None:
        """Play what remote plugins wrote after the tests; call `heading` before the first line."""
        if any(event.get("t") == "terminal" for event in self._late):
            heading(self.label)
        late, self._late = self._late, []
        for event in late:
            self._play_labelled(event)

    def remarks(self) -> list[str]:
        """Return remarks about the job that its results do not show."""
        if not self.has_started:
            return [] if self.unrecorded is None else [f"its tests are not shown: {self.unrecorded}"]
        lines = list(self.notes)
        over, ended = self.newest.get("tests_over", {}), self.newest.get("interrupt")
        lines += [str(over[why]) for why in ("shouldfail", "shouldstop") if over.get(why)]
        if ended is not None and not self.is_stopped_locally and "stopped" not in self.newest:
            lines.append(f"{ended.get('name')}: {ended.get('message')}".rstrip(": "))
        if "internal_error" in self.newest:
            lines.append("pytest had an internal error in the job")
        if self.broken is not None:
            lines.append(self.broken)
        if self.not_run and not self.is_stopped_locally and not over.get("shouldfail"):
            lines.append(f"{self.not_run} test(s) were not run")
        return lines

    def _await_session(self, event: Event) -> None:
        """Collect events until the recorded session begins, then play them."""
        if self.unrecorded is not None:
            return
        recorded = any(seen.get("t") == "recorder" for seen in self._early)
        self.unrecorded = why_not_recorded(event, recorded=recorded, unrecorded=OLD_RUNNER)
        self._early.append(event)
        if self.unrecorded is not None or event.get("t") != "collecting":
            return
        early, self._early = [seen for seen in self._early if not is_text_only(seen)], []
        self._map_paths_to(self._find_root(early))
        self._events.hold(early)
        share = LabelledCollection(
            self._session, self.reports, self.places, Tree(self._session, self.labelling.prefix)
        )
        share.labelling = self.labelling
        self.join(share)
        while (held := self._events.next()) is not None:
            self._play_labelled(held)

    def _find_root(self, early: list[Event]) -> Path:
        """Set the labelling's folders; return the local path of the job's rootdir."""
        records = {str(event.get("t")): event for event in early}
        there = PurePosixPath(str(records.get("recorder", {}).get("cwd") or "/"))
        rootdir = PurePosixPath(str(records.get("session", {}).get("rootdir") or there))
        place = self._place
        depth = len(PurePosixPath(place.subdirectory).parts)
        sent = PurePosixPath(*there.parts[: len(there.parts) - depth])
        root = place.root / rootdir.relative_to(sent) if rootdir.is_relative_to(sent) else place.root
        config = self._config
        self.labelling.set_paths(root, place.cwd, config.rootpath, Path(config.invocation_params.dir))
        return root

    def _belongs_to_the_end(self, event: Event) -> bool:
        if "tests_over" not in self.newest:
            return False
        return bool(self._late) or event.get("type") == "log" or event.get("t") in _SAID_LAST

    def _play_labelled(self, event: Event) -> None:
        if self.broken is not None:
            return
        try:
            event = self.labelling.event(event)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            self.broken = f"a record of kind {event.get('t')!r} is invalid"
            return
        self.play(event)

    def _fail_running(self, why: str) -> None:
        """Fail the tests that were running, unless this session cancelled the job."""
        if self.has_started and not self.is_stopped_locally:
            self.fail_running(self.labelling.words(why, self.running))


def _is_ours(error: BaseException) -> bool:
    """Whether an error was raised in this package itself, not in code that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(OURS)


def _warning_identity(message: warnings.WarningMessage, nodeid: str) -> tuple[str, str, str, str]:
    return nodeid, message.category.__name__, str(message.message), PurePath(message.filename).name
