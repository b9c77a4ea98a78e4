"""Titles of logs, and groups in the log of GitHub Actions."""

from __future__ import annotations

import pytest

from pytest_remote_ci.terminal.output import print_titled_log


def test_a_log_has_a_title(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    print_titled_log("test / unit", "one\ntwo")
    assert capsys.readouterr() == ("one\ntwo", "--- test / unit\n")


@pytest.mark.parametrize("text", ["one\ntwo", "one\ntwo\n"])
def test_in_github_actions_a_log_is_a_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    print_titled_log("test 100% \n::error::x", text)
    out, err = capsys.readouterr()
    first, *lines = out.splitlines()
    assert first.startswith("::group::test 100%25 ")
    assert lines == ["one", "two", "::endgroup::"]
    assert err == ""
