"""Repositories that are named with ssh, and how git reads them over https."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ci_runner.dependencies import poetry, ssh_repositories


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("lib @ git+ssh://git@a.example/team/lib.git@v1", {"ssh://git@a.example/": "a.example"}),
        ('lib = { git = "ssh://git@a.example:2222/x" }', {"ssh://git@a.example:2222/": "a.example"}),
        ("git+ssh://a.example/x", {"ssh://a.example/": "a.example"}),
        ("git+https://a.example/x", {}),
        ("xssh://git@a.example/x ssh://git@-bad/x ssh://git@a.example", {}),
    ],
)
def test_hosts_are_found(text: str, hosts: dict[str, str]) -> None:
    found = ssh_repositories.find([text]).hosts
    assert {beginning: host for beginning, host in found.items() if beginning.startswith("ssh:")} == hosts


def test_git_reads_them_and_their_submodules_over_https(tmp_path: Path) -> None:
    """As git itself says."""
    found = ssh_repositories.find(["git+ssh://git@a.example:22/x", "git+ssh://git@b.example/y"])
    for address, wanted in {
        "ssh://git@a.example:22/team/x.git": "https://a.example/team/x.git",
        "git@b.example:team/y.git": "https://b.example/team/y.git",
        "https://c.example/z": "https://c.example/z",
        "ssh://git@c.example/z": "ssh://git@c.example/z",
    }.items():
        done = subprocess.run(
            ["git", "ls-remote", "--get-url", address],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **found.git_settings()},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == wanted


def test_the_line_names_the_hosts_and_what_private_ones_need() -> None:
    found = ssh_repositories.find(["ssh://git@a.example/x", "ssh://git@a.example:22/x", "ssh://b.example/x"])
    line = "repositories at a.example, b.example are read over https, because builds have no ssh key"
    assert found.note(has_netrc=True) == line
    assert found.note(has_netrc=False) == f"{line}; private ones need a token in the secret NETRC"


def test_only_so_many_are_read() -> None:
    text = "\n".join(f"ssh://git@h{number}.example/x" for number in range(1000))
    assert len(ssh_repositories.find([text]).hosts) == 40
    assert not ssh_repositories.find([])
    assert ssh_repositories.find([]).git_settings() == {}


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("git@a.example:team/lib.git", "lib @ git+ssh://git@a.example/team/lib.git@v1"),
        ("ssh://git@a.example/lib.git", "lib @ git+ssh://git@a.example/lib.git@v1"),
        ("https://a.example/lib.git", "lib @ git+https://a.example/lib.git@v1"),
    ],
)
def test_poetry_s_addresses_become_urls(address: str, line: str) -> None:
    assert poetry.requirement("lib", {"git": address, "tag": "v1"}) == line
