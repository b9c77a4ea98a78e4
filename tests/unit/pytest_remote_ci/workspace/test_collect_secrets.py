"""What looks like a secret travels only when `include` names it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect

PEM = "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def paths(root: Path, **options: Any) -> list[str]:
    return [file.path for file in collect.collect(root, **options).files]


class TestSecrets:
    """What looks like a secret travels only when `include` names it."""

    def test_all_of_them_are_named_with_the_line_that_allows_them(self, either: Path) -> None:
        make(either, "a.py", "id_rsa")
        make(either, "tests/certs/server.key", "tests/certs/we[i]rd.pem", text=PEM)
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either)
        text = str(caught.value)
        assert text.splitlines() == [
            "3 files look like secrets and nothing was sent:",
            "  id_rsa looks like an SSH private key",
            "  tests/certs/server.key looks like a private key",
            "  tests/certs/we[i]rd.pem looks like a private key",
            (
                "Leave them out with `exclude`, or, if the tests need them, "
                "send them with this in [tool.remote-ci]:"
            ),
            '  include = ["/id_rsa", "/tests/certs/server.key", "/tests/certs/we\\\\[i]rd.pem"]',
        ]
        allowed = _pasted(text)
        assert len(paths(either, include=allowed)) == 4
        assert paths(either, exclude=allowed) == ["a.py"]
        assert paths(either, allow_secrets=True) == paths(either, include=allowed)

    def test_many_of_one_kind_are_allowed_by_one_pattern(self, either: Path) -> None:
        make(either, *(f"tests/keys/{number}.pem" for number in range(20)), text=PEM)
        make(either, *(f"tests/keys/{number}.crt" for number in range(20)))
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either)
        assert _pasted(str(caught.value)) == ["/tests/keys/*.pem"]
        assert len(paths(either, include=["/tests/keys/*.pem"])) == 40

    def test_many_of_one_kind_in_several_folders_are_allowed_by_one_pattern(self, either: Path) -> None:
        make(
            either, *(f"tests/{number}/a.key" for number in range(4)), "tests/b.key", "tests/id_rsa", text=PEM
        )
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either)
        assert _pasted(str(caught.value)) == ["/tests/**/*.key", "/tests/id_rsa"]
        assert len(paths(either, include=_pasted(str(caught.value)))) == 6

    def test_many_of_one_kind_without_a_common_folder_are_named_each(self, either: Path) -> None:
        make(either, *(f"{number}/a.key" for number in range(4)), text=PEM)
        with pytest.raises(WorkspaceError) as caught:
            collect.collect(either)
        assert len(_pasted(str(caught.value))) == 4

    @pytest.mark.parametrize("pattern", ["keys/", "*", "keys/**", "keys/*", "/keys/"])
    def test_a_pattern_that_names_no_files_allows_no_secret(self, either: Path, pattern: str) -> None:
        make(either, "keys/a.pem", text=PEM)
        with pytest.raises(WorkspaceError, match="a file looks like secrets"):
            collect.collect(either, include=[pattern])

    def test_a_link_to_a_secret_is_a_secret(self, either: Path) -> None:
        make(either, ".gitignore", text="private/\n")
        make(either, "private/key", text=PEM)
        (either / "innocent.txt").symlink_to("private/key")
        with pytest.raises(WorkspaceError, match=r"innocent\.txt looks like a private key"):
            collect.collect(either)

    def test_ignored_secrets_do_not_matter(self, either: Path) -> None:
        make(either, ".gitignore", text="id_rsa\n")
        make(either, "id_rsa")
        assert paths(either) == [".gitignore"]


def _pasted(text: str) -> list[str]:
    from pytest_remote_ci.config.user_file import read_toml

    file = Path(os.environ["XDG_CACHE_HOME"]).with_name("pasted.toml")
    file.write_text(text.splitlines()[-1].strip())
    include = read_toml(file)["include"]
    assert isinstance(include, list)
    return include
