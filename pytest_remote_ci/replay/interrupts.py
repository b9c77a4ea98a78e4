"""Ctrl-C in a native session: the job is cancelled, and what it still reports is shown.

Signals are turned into KeyboardInterrupt by `terminal.interrupts`; outside of native sessions, `session.submit`
cancels.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from pytest_remote_ci.replay.player import Player


class ReplayInterrupts:
    """What interrupts do to one replay; registered as a plugin for those outside of our own waiting."""

    def __init__(self, player: Player) -> None:
        self._player = player

    @contextmanager
    def cancel(self) -> Generator[None, None, None]:
        """Cancel the run on an interrupt, play what it still reports, and pass the interrupt on."""
        try:
            yield
        except KeyboardInterrupt:
            self.cancel_and_play_on()
            raise

    @contextmanager
    def abandon(self) -> Generator[None, None, None]:
        """Cancel and stop waiting on an interrupt: the session is ending anyway."""
        try:
            yield
        except KeyboardInterrupt:
            self._player.abandon()

    def cancel_and_play_on(self) -> None:
        """Cancel the run, and play what the remote pytest still reports, until the next interrupt."""
        try:
            self._player.interrupt()
            self._player.play_until("tests_over")
        except KeyboardInterrupt:
            self._player.leave()

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Handle Ctrl-C outside our waiting hooks: nothing more of the remote session is shown."""
        if self._player.is_interrupted or self._player.knows_interrupt:
            return
        if issubclass(excinfo.type, KeyboardInterrupt):
            self._player.mute("interrupted")
            self._player.interrupt()
