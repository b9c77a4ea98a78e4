"""One job of a run in the local session: a recorded session, or a job that only has a log.

Events of several jobs arrive interleaved. Each job has its own player, and events are pushed into it: those of the
tests are played at once; what plugins write at the end of their session waits for the end of the local one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pytest_remote_ci.replay.collection import Collection
from pytest_remote_ci.replay.events import OLD_RUNNER, Event, is_text_only, parts_of, why_not_recorded
from pytest_remote_ci.replay.labels import Labelling
from pytest_remote_ci.replay.last_failed import note_collected
from pytest_remote_ci.replay.nodes import Tree
from pytest_remote_ci.replay.player import Player
from pytest_remote_ci.session.arguments import Place

#: Kinds of events that are played at the end of the local session, once the job's tests are over.
_SAID_LAST = ("terminal", "summary", "end")
#: Kinds of events after which it is known which tests will run.
_COLLECTED = ("collected", "collected_ids")


class _Given:
    """A source of pushed events: a player that asks for more gets none."""

    is_late = False

    def __init__(self) -> None:
        self._events: deque[Event] = deque()

    def next(self) -> Event | None:
        """See `events.Source`."""
        return self._events.popleft() if self._events else None

    def hold(self, events: list[Event]) -> None:
        """See `events.Source`."""
        self._events.extendleft(reversed(events))

    def peek(self, kind: str) -> Event:
        """See `events.Source`."""
        return next((event for event in self._events if event.get("t") == kind), {})


class JobCollection(Collection):
    """One job's part of the tests of the local session."""

    labelling: Labelling

    def add_ids(self, event: Event) -> None:
        """Add tests without collector reports, and count them for the terminal, which counts from such reports."""
        super().add_ids(event)
        reporter: Any = self._session.config.pluginmanager.get_plugin("terminalreporter")
        if hasattr(reporter, "_numcollected"):
            reporter._numcollected += len(event["ids"])

    def _settle(self, items: list[Any]) -> None:
        self._session.items = [*self._session.items, *items]

    def _remember(self, items: list[Any]) -> None:
        found = [self.labelling.plain(item.nodeid) for item in items]
        note_collected(self._session.config, [nodeid for nodeid in found if nodeid is not None])


class RunJob:
    """One attempt of a job of the run."""

    def __init__(self, session: pytest.Session, planned: Mapping[str, Any], label: str, place: Place) -> None:
        """`planned`: the job's row in the run; `place`: the submitted project and the job's folder in it."""
        self.name = str(planned["name"])
        self.label = label
        self.is_allowed = bool(planned["allow_failure"])
        self.labelling = Labelling(label)
        self._session = session
        self._place = place
        self._early: list[Event] = []
        self._late: list[Event] = []
        #: None before the recorded session begins, and for a job without one.
        self.player: Player | None = None
        #: Why there is only a log, else None.
        self.unrecorded: str | None = None
        #: The job's last event, else None.
        self.complete: Event | None = None
        #: Whether it is known which tests will run.
        self.is_collected = False
        #: Number of failures reported for the job.
        self.failures = 0
        #: Whether this session cancelled the job: the test that was running has not failed then.
        self.is_stopped_here = False

    @property
    def tests(self) -> int:
        """The number of the job's tests."""
        return 0 if self.player is None else len(self.player.collection.items)

    @property
    def reported(self) -> Iterable[str]:
        """Node ids of tests and collectors for which anything was reported."""
        return () if self.player is None else {*self.player.reported, *self.player.collection.collectors}

    def take(self, event: Event, *, with_protocol: bool) -> None:
        """Handle the next event of this attempt; `with_protocol`: local plugins watch each test as it runs."""
        if event.get("type") == "complete":
            self.complete = event
            self._fail_running(str(event.get("reason") or "the remote pytest ended"))
            return
        for part in parts_of(event):
            if self._session.shouldfail or self._session.shouldstop:
                return  # the job sent this before it was stopped
            if self.player is None:
                self._begin(part, with_protocol=with_protocol)
            elif self._belongs_to_the_end(part):
                self._late.append(part)
            else:
                self._play(part)

    def lose(self, why: str) -> None:
        """Fail the running tests, because no more events will arrive."""
        if self.complete is None:
            self._fail_running(why)

    def tell_the_end(self, heading: Callable[[str], None]) -> None:
        """Play what remote plugins wrote after the tests; call `heading` before the first line."""
        if self.player is None:
            return
        if any(event.get("t") == "terminal" for event in self._late):
            heading(self.label)
        late, self._late = self._late, []
        for event in late:
            self._play(event)

    def remarks(self) -> list[str]:
        """Return remarks about the job that its results do not show."""
        player = self.player
        if player is None:
            return [] if self.unrecorded is None else [f"its tests are not shown: {self.unrecorded}"]
        lines = list(player.notes)
        over, ended = player.said.get("tests_over", {}), player.said.get("interrupt")
        lines += [str(over[why]) for why in ("shouldfail", "shouldstop") if over.get(why)]
        if ended is not None and not self.is_stopped_here and "stopped" not in player.said:
            lines.append(f"{ended.get('name')}: {ended.get('message')}".rstrip(": "))
        if "internal_error" in player.said:
            lines.append("pytest had an internal error there")
        if player.broken is not None:
            lines.append(player.broken)
        if player.not_run and not self.is_stopped_here and not over.get("shouldfail"):
            lines.append(f"{player.not_run} test(s) were not run")
        return lines

    def _begin(self, event: Event, *, with_protocol: bool) -> None:
        """Collect events until the recorded session begins, then start its player."""
        if self.unrecorded is not None:
            return
        recorded = any(seen.get("t") == "recorder" for seen in self._early)
        self.unrecorded = why_not_recorded(event, recorded=recorded, unrecorded=OLD_RUNNER)
        self._early.append(event)
        if self.unrecorded is not None or event.get("t") != "collecting":
            return
        given, early = _Given(), [seen for seen in self._early if not is_text_only(seen)]
        given.hold(early)
        root = self._settle_place(early)
        config = self._session.config
        self.player = Player(config, given, lambda event: None, root=root, gathers=True)
        self.player.no_header, self.player.with_protocol = True, with_protocol
        tree = Tree(self._session, self.labelling.prefix)
        share = JobCollection(self._session, self.player.reports, self.player.places, tree)
        share.labelling = self.labelling
        self.player.join(share)
        self._early = []
        while (held := given.next()) is not None:
            self._play(held)

    def _settle_place(self, early: list[Event]) -> Path:
        """Set the labelling's folders; return the local path of the job's rootdir."""
        said = {str(event.get("t")): event for event in early}
        there = PurePosixPath(str(said.get("recorder", {}).get("cwd") or "/"))
        rootdir = PurePosixPath(str(said.get("session", {}).get("rootdir") or there))
        place = self._place
        depth = len(PurePosixPath(place.subdirectory).parts)
        sent = PurePosixPath(*there.parts[: len(there.parts) - depth])
        root = place.root / rootdir.relative_to(sent) if rootdir.is_relative_to(sent) else place.root
        config = self._session.config
        self.labelling.settle(root, place.cwd, config.rootpath, Path(config.invocation_params.dir))
        return root

    def _belongs_to_the_end(self, event: Event) -> bool:
        assert self.player is not None
        if "tests_over" not in self.player.said:
            return False
        return bool(self._late) or event.get("type") == "log" or event.get("t") in _SAID_LAST

    def _play(self, event: Event) -> None:
        player = self.player
        assert player is not None
        if player.broken is not None:
            return
        try:
            event = self.labelling.event(event)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            player.broken = f"a record of kind {event.get('t')!r} makes no sense"
            return
        player.play(event)
        self.is_collected = self.is_collected or event.get("t") in _COLLECTED

    def _fail_running(self, why: str) -> None:
        """Fail the tests that were running, unless this session cancelled the job."""
        player = self.player
        if player is not None and not self.is_stopped_here:
            player.fail_running(self.labelling.words(why, player.running))
