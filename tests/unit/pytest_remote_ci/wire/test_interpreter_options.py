"""Which options of an interpreter a submission may have."""

from __future__ import annotations

import pytest

from pytest_remote_ci.wire.protocol import SubmitOptions, WireError

ACCEPTED = ["-Werror", "-Wignore:old:DeprecationWarning:a.b:3", "-O", "-OO", "-bb", "-Xdev", "-Xutf8=0", "-I"]
#: They run other code, change how the process ends, or are not one argument.
REFUSED = [
    "-i",
    "-c",
    "-mthis",
    "-cimport this",
    "-",
    "--",
    "",
    "-W",
    "-X",
    "-Xpycache_prefix=/tmp",
    "-Xpresite=module",
    "-Xdev=1 2",
    "-Xutf8=1\n",
    "-OOO",
    "-OI",
    "-S",
    "-v",
    "test.py",
    "-O\n",
]


def test_options_that_change_what_tests_see_are_accepted() -> None:
    raw = {"interpreter_options": ACCEPTED}
    assert SubmitOptions.from_client(raw).interpreter_options == tuple(ACCEPTED)


@pytest.mark.parametrize("option", REFUSED)
def test_every_other_option_is_refused(option: str) -> None:
    with pytest.raises(WireError, match=r"^options\.interpreter_options\[1\]: .* is not accepted: use -W"):
        SubmitOptions.from_client({"interpreter_options": ["-O", option]})


def test_the_number_of_options_is_limited() -> None:
    with pytest.raises(WireError, match="at most 200 options"):
        SubmitOptions.from_client({"interpreter_options": ["-O"] * 201})
