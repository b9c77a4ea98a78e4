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
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest

from pytest_remote_ci.replay import failure_hints, reporters
from pytest_remote_ci.replay.collection import Collection
from pytest_remote_ci.replay.decode import Reports, exception_call, failed_reports, internal_error
from pytest_remote_ci.replay.event_source import (
    OLD_RUNNER,
    EventSource,
    is_text_only,
    why_not_recorded,
)
from pytest_remote_ci.replay.multi_job.labels import Labelling
from pytest_remote_ci.replay.multi_job.last_failed import note_collected
from pytest_remote_ci.replay.nodes import Tree
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.pytest_internals import OURS, count_collected
from pytest_remote_ci.replay.screen import Screen, is_output
from pytest_remote_ci.replay.selection import Choice
from pytest_remote_ci.replay.tb_style import restyle
from pytest_remote_ci.session.arguments import Place
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.answers import RunJob
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.records import RecordError

if TYPE_CHECKING:
    from pytest_remote_ci.replay.decode import AnyReport

_R = TypeVar("_R", bound=wire.Record)
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
        self._collection: Collection | None = None
        self._last: AnyReport | None = None
        self._passed_points: set[str] = set()
        #: Lines for the end of the session.
        self.notes: list[str] = []
        #: Class → the session's record of that class, and when it was written, of those that others ask for.
        self._newest: dict[type[wire.Record], tuple[wire.Record, str]] = {}
        self._timestamp = ""
        #: Node id → location of the tests that have begun and not ended.
        self.running: dict[str, wire.Location] = {}
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

    def _note_cause(self, report: AnyReport) -> None:
        """Add a line, once, if a test failed because a server is missing in the job, or by one of its limits."""
        line = failure_hints.hint(report.longrepr)
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
        reporters.adopt(self._config, self._events.peek(wire.Session))
        self._collection = collection

    @property
    def has_started(self) -> bool:
        """Whether there is a local session to play in."""
        return self._collection is not None

    @property
    def collection(self) -> Collection:
        """The collection of the local session. Raises AttributeError before there is a session."""
        if self._collection is None:
            raise AttributeError("the local session has not begun")
        return self._collection

    @property
    def is_measured(self) -> bool:
        """Whether pytest-cov measures in the job."""
        session = self.newest(wire.Session)
        return session is not None and session.measured

    def newest(self, kind: type[_R]) -> _R | None:
        """Return the newest record of this kind, of those that describe the session; None if there was none."""
        found = self._newest.get(kind)
        return found[0] if found is not None and isinstance(found[0], kind) else None

    def has(self, kind: type[wire.Record]) -> bool:
        """Whether there was such a record."""
        return kind in self._newest

    def time_of(self, kind: type[wire.Record]) -> str | None:
        """Return when the newest record of this kind was written, in RFC 3339."""
        found = self._newest.get(kind)
        return None if found is None else found[1]

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
            if event.kind in _ENDS:  # for the caller that plays the session
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
        kind = event.kind
        handler = self._PLAYS.get(wire.KINDS.get(kind or ""))
        if kind is not None and handler is None:
            return
        try:
            record = event.record
        except RecordError:  # tests can write records, too
            self._break(kind)
            return
        if self.is_filtered and self.collection.unchosen.covers(event, others_run=bool(self.running)):
            return
        if self._gathers and self._waiting and (is_output(event) or kind == wire.TerminalCall.kind):
            next(reversed(self._waiting.values())).append(event)
            return
        if kind is None or handler is None:
            self._play_text(event)
            return
        self._passed_points.add(kind)
        self._timestamp = event.timestamp
        try:
            handler(self, record)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # What a record holds can still make no sense; errors of local plugins are raised.
            if not _is_ours(error):
                raise
            self._break(kind)

    def _break(self, kind: str | None) -> None:
        self.broken = f"a record of kind {kind!r} is invalid; use --remote-ci-text to see what pytest printed"

    def _play_text(self, event: Event) -> None:
        """Play an event that is not a record: output of tests, or a message of the runner."""
        if is_output(event):
            self._screen.write(event, at_the_end=self.has(wire.End))
        elif event.type in ("log", "state") and event.stream != "terminal":
            self._show(event)

    # -- session

    def _remember(self, record: wire.Record) -> None:
        self._newest[type(record)] = record, self._timestamp

    def _summary(self, record: wire.Summary) -> None:
        self._remember(record)
        reporters.adopt_metadata(self._config, record.metadata)

    def _header(self, record: wire.Header) -> None:
        session = self.newest(wire.Session)
        if not self.no_header and session is not None:
            self._screen.header(record, session, self.collection)

    def _begin(self, record: wire.Session) -> None:
        self._remember(record)
        self.places.learn(record.rootdir)
        self.reports.remote_pytest = record.pytest

    def _died(self, record: wire.Died) -> None:
        self._remember(record)
        self.notes_add(f"{record.text}; it was started again for the rest" if record.again else record.text)

    def _note(self, record: wire.Note) -> None:
        self.notes_add(self.places.text(record.text))

    def _internal_error(self, record: wire.InternalError) -> None:
        self._remember(record)
        self._config.hook.pytest_internalerror(**internal_error(record, self.places))

    def _worker(self, record: wire.WorkerLine) -> None:
        self.reports.workers[record.id] = record.line

    def _junit(self, record: wire.JunitProperties | wire.JunitAttribute) -> None:
        reporters.play_junit(self._config, record)

    def _warning(self, record: wire.RecordedWarning) -> None:
        """Report a warning once, although a plugin installed on both sides emits it twice."""
        arguments = self.reports.warning(record)
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

    def _started(self, record: wire.Started) -> None:
        self._local_warnings.clear()
        nodeid, location = record.id, self.places.location(record.location)
        item = self.collection.items.get(nodeid)
        self.running[nodeid] = item.location if item is not None and item.location == location else location
        if self._gathers:
            self._waiting[nodeid] = [Event.of(record)]
        elif not self.with_protocol or item is None:
            self._config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
        elif self.is_distributed:
            self._waiting[nodeid] = [Event.of(record)]
        else:
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=None)

    @property
    def is_distributed(self) -> bool:
        """Whether xdist runs in the job, so that several tests run at a time."""
        session = self.newest(wire.Session)
        return session is not None and session.xdist

    def _report(self, record: wire.Report) -> None:
        if self._waits(record.nodeid, record):
            return
        report = self._last = self.reports.report(record)
        if self._choice is not None:
            restyle(report, str(getattr(self._config.option, "tbstyle", "auto")))
        with self._screen.unseen(is_unseen=True) if record.unseen else nullcontext():
            self._log_report(report, report.nodeid)

    def _passed(self, record: wire.Passed) -> None:
        nodeid = record.id
        if self._waits(nodeid, record):
            return
        item = self.collection.items.get(nodeid)
        self._last = self.reports.passes.report(record, self.running.get(nodeid), item)
        self._log_report(self._last, nodeid)

    def _log_report(self, report: AnyReport, nodeid: str) -> None:
        self._config.hook.pytest_runtest_logreport(report=report)
        if report.failed:
            self._note_cause(report)
        if nodeid not in self.reported:
            self.reported.add(report.nodeid)  # the report's id object, which others store, too
        if nodeid in self.running:
            self._phases[nodeid] = str(report.when)

    def _logs(self, record: wire.LogPiece) -> None:
        if not self._waits(record.id, record):
            self.reports.store_logs(record)

    def _exception(self, record: wire.RaisedException) -> None:
        if record.found:
            self.collection.exception(record)
            return
        if self._waits(record.id, record):
            return
        item = self.collection.items.get(record.id)
        if item is not None and self._last is not None and self._last.nodeid == record.id:
            call = exception_call(record, self._last, self.places)
            self._config.hook.pytest_exception_interact(node=item, call=call, report=self._last)

    def _finished(self, record: wire.Finished) -> None:
        nodeid = record.id
        if self._waits(nodeid, record):
            self._play_held(nodeid)
            return
        self.running.pop(nodeid, None)
        self._phases.pop(nodeid, None)
        self.reports.forget(nodeid)
        self._config.hook.pytest_runtest_logfinish(
            nodeid=nodeid, location=self.places.location(record.location)
        )

    def _waits(self, nodeid: str, record: wire.Record) -> bool:
        waiting = self._waiting.get(nodeid)
        if waiting is not None:
            waiting.append(Event.of(record))
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
        died = self.newest(wire.Died)
        written = list((died.sections if died is not None else None) or ())
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
        return len(self.collection.expected - self.reported) if self.has_started else 0

    @property
    def has_results(self) -> bool:
        """Whether anything was reported for a test."""
        return bool(self.reported)

    @property
    def is_filtered(self) -> bool:
        """Whether only a part of the session is shown."""
        return self.has_started and bool(self.collection.unchosen.nodeids)

    #: Class of a record → what plays it.
    _PLAYS: ClassVar[Mapping[object, Callable[..., None]]] = {
        wire.Session: _begin,
        wire.Header: _header,
        wire.Collecting: _remember,
        wire.TestsOver: _remember,
        wire.Summary: _summary,
        wire.End: _remember,
        wire.Interrupt: _remember,
        wire.InternalError: _internal_error,
        wire.Stopped: _remember,
        wire.Died: _died,
        wire.Note: _note,
        wire.JunitProperties: _junit,
        wire.JunitAttribute: _junit,
        wire.WorkerLine: _worker,
        wire.Truncated: lambda job, record: job.notes_add(_TRUNCATED),
        wire.RecordedWarning: _warning,
        wire.TerminalCall: lambda job, record: job._screen.call(record),
        wire.CollectReport: lambda job, record: job.collection.report(record),
        wire.Deselected: lambda job, record: job.collection.deselected(record),
        wire.Tree: lambda job, record: job.collection.grow(record),
        wire.Collected: lambda job, record: job.collection.complete(),
        wire.CollectedIds: lambda job, record: job.collection.add_ids(record),
        wire.CollectionLines: lambda job, record: job.collection.store_lines(record),
        wire.Started: _started,
        wire.Report: _report,
        wire.Passed: _passed,
        wire.RaisedException: _exception,
        wire.Compared: lambda job, record: reporters.play_comparison(job._config, record, job.places),
        wire.LogPiece: _logs,
        wire.Finished: _finished,
    }


class LabelledCollection(Collection):
    """One job's part of the tests of the local session."""

    labelling: Labelling

    def add_ids(self, record: wire.CollectedIds) -> None:
        """Add tests without collector reports, and count them for the terminal, which counts from such reports."""
        super().add_ids(record)
        reporter = self._session.config.pluginmanager.get_plugin("terminalreporter")
        count_collected(reporter, len(record.ids))

    def _set_items(self, items: list[pytest.Item]) -> None:
        self._session.items = [*self._session.items, *items]

    def _remember(self, items: list[pytest.Item]) -> None:
        found = [self.labelling.plain(item.nodeid) for item in items]
        note_collected(self._session.config, [nodeid for nodeid in found if nodeid is not None])


class PipelineJob(Job):
    """Plays one attempt of a job of a pipeline; its node ids begin with its label."""

    def __init__(self, session: pytest.Session, planned: RunJob, label: str, place: Place) -> None:
        """`planned`: the job's row in the run; `place`: the submitted project and the job's folder in it."""
        super().__init__(session.config, EventSource(), gathers=True)
        self.no_header = True
        self.name = planned.name
        self.label = label
        self.is_allowed = planned.allow_failure
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
        #: Its cases in the local JUnit report.
        self.junit_cases: list[object] = []
        #: The label of the attempt that repeats this one, else None; how to see this one.
        self._successor: str | None = None
        self._remedy = ""

    @property
    def is_given_up(self) -> bool:
        """Whether another attempt repeats this one, so that its results do not count."""
        return self._successor is not None

    def give_up(self, successor: str, job_id: str) -> int:
        """Note that another attempt repeats this one; return the number of failures, which no longer count."""
        self._successor, self._remedy = successor, f"remote-ci logs {job_id}"
        failures, self.failures = self.failures, 0
        return failures

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
        if event.type == "complete":
            self.complete = event
            self._fail_running(event.reason or "the remote pytest ended")
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
        if any(event.kind == wire.TerminalCall.kind for event in self._late):
            heading(self.label or self.name)
        late, self._late = self._late, []
        for event in late:
            self._play_labelled(event)

    def remarks(self) -> list[str]:
        """Return remarks about the job that its results do not show."""
        if self._successor is not None:
            return [
                f"given up, and repeated as {self._successor}: its results do not count; see them with: {self._remedy}"
            ]
        if not self.has_started:
            return [] if self.unrecorded is None else [f"its tests are not shown: {self.unrecorded}"]
        lines = list(self.notes)
        over, ended = self.newest(wire.TestsOver), self.newest(wire.Interrupt)
        lines += [why for why in (over.shouldfail, over.shouldstop) if why] if over is not None else []
        if ended is not None and not self.is_stopped_locally and not self.has(wire.Stopped):
            lines.append(f"{ended.name}: {ended.message}".rstrip(": "))
        if self.has(wire.InternalError):
            lines.append("pytest had an internal error in the job")
        if self.broken is not None:
            lines.append(self.broken)
        if self.not_run and not self.is_stopped_locally and not (over is not None and over.shouldfail):
            lines.append(f"{self.not_run} test(s) were not run")
        return lines

    def _await_session(self, event: Event) -> None:
        """Collect events until the recorded session begins, then play them."""
        if self.unrecorded is not None:
            return
        recorded = any(seen.kind == wire.Recorder.kind for seen in self._early)
        self.unrecorded = why_not_recorded(event, recorded=recorded, unrecorded=OLD_RUNNER)
        self._early.append(event)
        if self.unrecorded is not None or event.kind != wire.Collecting.kind:
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
        there = rootdir = PurePosixPath("/")
        for record in (event.valid_record for event in early):
            if isinstance(record, wire.Recorder):
                there = rootdir = PurePosixPath(record.cwd or "/")
            elif isinstance(record, wire.Session):
                rootdir = PurePosixPath(record.rootdir or there)
        place = self._place
        depth = len(PurePosixPath(place.subdirectory).parts)
        sent = PurePosixPath(*there.parts[: len(there.parts) - depth])
        root = place.root / rootdir.relative_to(sent) if rootdir.is_relative_to(sent) else place.root
        config = self._config
        self.labelling.set_paths(root, place.cwd, config.rootpath, Path(config.invocation_params.dir))
        return root

    def _belongs_to_the_end(self, event: Event) -> bool:
        if not self.has(wire.TestsOver):
            return False
        return bool(self._late) or event.type == "log" or event.kind in _SAID_LAST

    def _play_labelled(self, event: Event) -> None:
        if self.broken is not None:
            return
        try:
            record = event.record
            labelled = None if record is None else self.labelling.record(record)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            self.broken = f"a record of kind {event.kind!r} is invalid"
            return
        self.play(event if labelled is None or labelled is record else Event.of(labelled, event.timestamp))

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
