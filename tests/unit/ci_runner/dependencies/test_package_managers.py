"""What package managers are asked for, and what they say when they fail (as they really wrote it)."""

from __future__ import annotations

import pytest

from ci_runner.dependencies import package_managers
from ci_runner.dependencies.package_managers import MANAGERS


@pytest.mark.parametrize("manager", MANAGERS, ids=lambda manager: manager.name)
@pytest.mark.parametrize("ca_bundle", [None, "/tmp/ca.pem"])  # a path in a container
def test_names_follow_the_end_of_the_options(
    manager: package_managers.PackageManager, ca_bundle: str | None
) -> None:
    commands = manager.commands(ca_bundle, ("one", "two"))
    installs = [command for command in commands if "one" in command]
    assert [command[-3:] for command in installs] == [("--", "one", "two")]
    assert {command[0] for command in installs} == {manager.name}
    assert not any(part in ("sh", "-c") for command in commands for part in command)


def test_apt_takes_no_name_for_a_pattern_and_goes_on_with_no_old_lists() -> None:
    commands = MANAGERS[0].commands(None, ("one",))
    assert [command[:2] for command in commands[:2]] == [("apt-get", "-qq"), ("apt-get", "-q")]
    for command in commands[:2]:
        assert "APT::Cmd::Pattern-Only=true" in command
        assert "APT::Update::Error-Mode=any" in command


APT_UNKNOWN = """Reading package lists...
Building dependency tree...
E: Unable to locate package libfoo.r
E: Couldn't find any package by glob 'libfoo.r'
"""
APT_UNREACHABLE = """Reading package lists...
E: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect to 127.0.0.1:9
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""
APT_SCRIPT = """Setting up broken (1.0) ...
all is lost
dpkg: error processing package broken (--configure):
 installed broken package post-installation script subprocess returned error exit status 3
Errors were encountered while processing:
 broken
E: Sub-process /usr/bin/dpkg returned an error code (1)
"""
APT_SCRIPT_REASON = (
    "broken (--configure): installed broken package post-installation script subprocess returned error exit status "
    "3"
)
APK_UNKNOWN = """fetch https://dl-cdn.alpinelinux.org/alpine/v3.20/main/x86_64/APKINDEX.tar.gz
ERROR: unable to select packages:
  libnope (no such package):
    required by: world[libnope]
"""
DNF_UNKNOWN = """Last metadata expiration check: 0:00:01 ago.
No match for argument: libnope
Error: Unable to find a match: libnope
"""


@pytest.mark.parametrize(
    ("output", "reason", "is_unreachable"),
    [
        (APT_UNKNOWN, "Unable to locate package libfoo.r", False),
        # apt writes its progress without ends of lines, and errors to another stream.
        (
            "Reading package lists...\nBuilding dependency tree...E: Unable to locate package a\n",
            "Unable to locate package a",
            False,
        ),
        (
            APT_UNREACHABLE,
            "Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Could not connect to 127.0.0.1:9",
            True,
        ),
        (
            APT_SCRIPT,
            f"dpkg: error processing package {APT_SCRIPT_REASON}",
            False,
        ),
        (APK_UNKNOWN, "ERROR: unable to select packages: libnope (no such package):", False),
        (DNF_UNKNOWN, "Error: Unable to find a match: libnope", False),
        ("one\n two \n\n", "two", False),
        ("", "", False),
        ("E: " + "x" * 1000, "x" * 500, False),
    ],
)
def test_the_last_error(output: str, reason: str, is_unreachable: bool) -> None:
    assert package_managers.reason(output) == reason
    assert package_managers.is_unreachable(reason) is is_unreachable
