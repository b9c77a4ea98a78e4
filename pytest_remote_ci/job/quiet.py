"""Whether anything that is not pytest's own runs between the result of a test and the beginning of the next one.

Where nothing does, the two travel as one record, which spares a third of the work for tests that do next to nothing.
As soon as a finalizer, a plugin or a conftest has a say in between, which may take its time or take pytest down, the
result goes on its way at once. Standard library and pytest only.
"""

from __future__ import annotations

from typing import Any

import pytest

from .pytest_internals import PYTEST, all_are_of

#: What is called in between.
_HOOKS = (
    "pytest_runtest_teardown", "pytest_fixture_post_finalizer", "pytest_runtest_makereport", "pytest_runtest_logreport",
    "pytest_report_teststatus", "pytest_runtest_logfinish", "pytest_runtest_protocol", "pytest_runtest_logstart",
)  # fmt: skip
#: Whose plugins do not linger there.
_KNOWN = (PYTEST, "pytest_timeout", "pytest_cov.", "_hypothesis_pytestplugin", f"{__package__}.")


class Quiet:
    """Follows one session."""

    def __init__(self, config: Any) -> None:
        self._hooks = [getattr(config.hook, name) for name in _HOOKS]
        #: None: not known, because plugins have come.
        self._are_known: bool | None = None
        self._item: Any = None
        self._next: Any = None

    def forget(self) -> None:
        """There may be new plugins."""
        self._are_known = None

    def begin(self, item: Any, nextitem: Any) -> None:
        """This test begins; `nextitem` follows."""
        self._item, self._next = item, nextitem

    @property
    def is_last(self) -> bool:
        """Whether no other test follows at once; so it is in xdist's controller, too, which runs none."""
        return self._next is None

    def follows(self, nodeid: str) -> bool:
        """Whether the test, whose call has just passed, is followed at once by the beginning of another one."""
        item, following = self._item, self._next
        if type(item) is not pytest.Function or following is None or following.parent is not item.parent:
            return False
        try:
            finalizers = item.session._setupstate.stack[item][0]  # private to pytest
            return item.nodeid == nodeid and len(finalizers) == 1 and self._all_are_known()
        except (AttributeError, LookupError, TypeError):
            return False

    def _all_are_known(self) -> bool:
        if self._are_known is None:
            self._are_known = all(all_are_of(hook, *_KNOWN) for hook in self._hooks)
        return self._are_known
