"""Where the warnings of a test belong, by the list that Python fills while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_remote_ci.job.warned import (
    ASIDE,
    REPORT,
    TEST,
    After,
    Before,
    Changes,
    Warned,
    caught,
    leave_to_others,
)


@pytest.fixture
def log() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


def places(warned: Warned, log: list[warnings.WarningMessage]) -> dict[str, list[int] | None]:
    return {str(message.message): warned.place(message) for message in log}


def test_the_list_that_is_filled_is_found(log: list[warnings.WarningMessage]) -> None:
    assert caught() is log


def test_nothing_is_found_where_nobody_catches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "_showwarnmsg_impl", print)  # as ever: a function that shows them
    assert caught() is None
    warned = Warned()
    warned.begin()
    assert warned.reported() is False
    assert warned.place(SimpleNamespace(message="x")) is None


def test_a_warning_has_as_many_reports_before_it_as_were_told(log: list[warnings.WarningMessage]) -> None:
    warned = Warned()
    warned.begin()
    for phase in ("setup", "call", "teardown"):
        warnings.warn(f"in {phase}", stacklevel=1)
        warned.reported()
    warnings.warn("late", stacklevel=1)
    assert places(warned, log) == {
        "in setup": [0, TEST], "in call": [1, TEST], "in teardown": [2, TEST], "late": [3, TEST]
    }  # fmt: skip


def test_what_plugins_emit_while_they_hear_of_something_is_told_from_the_test_s(
    log: list[warnings.WarningMessage],
) -> None:
    warned = Warned()
    before, after = Before(warned), After(warned)
    warned.begin()
    for name, is_report in (
        ("logstart", False), ("logreport", True), ("exception_interact", False), ("logfinish", False)
    ):  # fmt: skip
        warnings.warn(f"test before {name}", stacklevel=1)
        getattr(before, f"pytest_{'runtest_' * name.startswith('log')}{name}")()
        warnings.warn(f"plugin at {name}", stacklevel=1)
        getattr(after, f"pytest_{'runtest_' * name.startswith('log')}{name}")()
        if is_report:
            warned.reported()
    assert places(warned, log) == {
        "test before logstart": [0, TEST], "plugin at logstart": [0, ASIDE],
        "test before logreport": [0, TEST], "plugin at logreport": [0, REPORT],
        "test before exception_interact": [1, TEST], "plugin at exception_interact": [1, ASIDE],
        "test before logfinish": [1, TEST], "plugin at logfinish": [1, ASIDE],
    }  # fmt: skip


def test_a_warning_of_another_list_has_no_place(log: list[warnings.WarningMessage]) -> None:
    warned = Warned()
    warned.begin()
    with warnings.catch_warnings(record=True) as inner:
        warnings.simplefilter("always")
        warnings.warn("inside", stacklevel=1)
    assert warned.place(inner[0]) is None


def test_the_next_test_begins_anew(log: list[warnings.WarningMessage]) -> None:
    warned = Warned()
    warned.begin()
    warned.reported()
    with warnings.catch_warnings(record=True) as second:
        warnings.simplefilter("always")
        warned.begin()
        warnings.warn("of the second", stacklevel=1)
    assert places(warned, second) == {"of the second": [0, TEST]}


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Changes:
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):
        if hasattr(warnings, name):
            monkeypatch.setattr(warnings, name, getattr(warnings, name))  # put back at the end
    return Changes()


def test_changed_filters_are_noticed_once(changes: Changes) -> None:
    warned = Warned()
    warned.changes = changes
    warned.begin()
    assert warned.reported() is False
    with warnings.catch_warnings():
        pass
    assert warned.reported() is True
    assert warned.reported() is False
    warnings.simplefilter("ignore", ResourceWarning)
    warned.begin()
    assert warned.reported() is False, "a new test looks at its own time only"


def test_a_warning_is_emitted_again_after_the_filters_have_changed(changes: Changes) -> None:
    registry: dict[Any, Any] = {}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            warnings.warn_explicit("again", UserWarning, "x.py", 1, registry=registry)
        with warnings.catch_warnings():
            pass
        warnings.warn_explicit("again", UserWarning, "x.py", 1, registry=registry)
    assert len(found) == 2
    assert changes.count


@pytest.mark.parametrize(
    ("tx", "catches", "is_left"), [(["2*popen"], True, True), ([], False, True), ([], True, False)]
)
def test_what_reporters_elsewhere_say_is_left_to_them_where_nobody_catches_it(
    tx: list[str], catches: bool, is_left: bool
) -> None:
    manager = SimpleNamespace(hasplugin=lambda name: name == "warnings" and catches)
    config = SimpleNamespace(option=SimpleNamespace(tx=tx), pluginmanager=manager)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        leave_to_others(config, ["loud", "pytest_html"])
        for module in ("loud", "pytest_html.plugin", "loudest", "test_it"):
            warnings.warn_explicit(module, UserWarning, f"{module}.py", 1, module=module)
    heard = [str(message.message) for message in found]
    assert heard == (
        ["loudest", "test_it"] if is_left else ["loud", "pytest_html.plugin", "loudest", "test_it"]
    )
