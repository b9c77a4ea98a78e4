"""Check whether only pytest's own code runs between a test's result and the start of the next test.

If so, the two are sent as one record, which saves a third of the work for tests that do almost nothing. If a
finalizer, a plugin or a conftest runs in between, which can take time or take pytest down, the result is sent at
once. Standard library and pytest only.
"""

from __future__ import annotations

import pytest

from .pytest_internals import PYTEST, all_are_of, finalizers_of

#: Hooks that are called in between.
_HOOKS = (
    "pytest_runtest_teardown",
    "pytest_fixture_post_finalizer",
    "pytest_runtest_makereport",
    "pytest_runtest_logreport",
    "pytest_report_teststatus",
    "pytest_runtest_logfinish",
    "pytest_runtest_protocol",
    "pytest_runtest_logstart",
)
#: Prefixes of modules that take no time in these hooks.
_KNOWN = (PYTEST, "pytest_timeout", "pytest_cov.", "_hypothesis_pytestplugin", f"{__package__}.")


class Quiet:
    """The state of one session."""

    def __init__(self, config: pytest.Config) -> None:
        self._hooks = [getattr(config.hook, name) for name in _HOOKS]
        #: None: not checked, because plugins were added.
        self._are_known: bool | None = None
        self._item: pytest.Item | None = None
        self._next: pytest.Item | None = None

    def forget(self) -> None:
        """Check again, because there may be new plugins."""
        self._are_known = None

    def begin(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Note that this test begins; `nextitem` follows."""
        self._item, self._next = item, nextitem

    @property
    def is_last(self) -> bool:
        """Whether no other test follows at once; also True in xdist's controller, which runs no tests."""
        return self._next is None

    def follows(self, nodeid: str) -> bool:
        """Whether another test begins right after this one, of which the call has just passed."""
        item, following = self._item, self._next
        if type(item) is not pytest.Function or following is None or following.parent is not item.parent:
            return False
        try:
            return item.nodeid == nodeid and len(finalizers_of(item)) == 1 and self._all_are_known()
        except (AttributeError, LookupError, TypeError):
            return False

    def _all_are_known(self) -> bool:
        if self._are_known is None:
            self._are_known = all(all_are_of(hook, *_KNOWN) for hook in self._hooks)
        return self._are_known
