"""Names of system packages: nothing but a name reaches a package manager that root runs."""

from __future__ import annotations

import pytest

from pytest_remote_ci.wire import system_packages
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError


@pytest.mark.parametrize(
    "name",
    ["libcairo2-dev", "g++", "libstdc++6", "7zip", "python3.11-dev", "ImageMagick-devel", "x_y", "a" * 100],
)
def test_names(name: str) -> None:
    assert system_packages.problem(name) is None
    assert SubmitOptions.from_dict({"packages": [name, name]}).packages == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-y",
        "--allow-unauthenticated",
        "+x",
        ".x",
        "bash-",  # apt removes it
        "bash+",  # apt installs bash
        "bash=5.2",
        "bash/stable",
        "bash:i386",
        "bash^",
        "lib*",
        "lib?",
        "[a]",
        "!bash",
        "~nbash",
        "?installed",
        "./x.deb",
        "a b",
        "a\n",
        "a;reboot",
        "$(reboot)",
        "`reboot`",
        "a'b",
        "bäsh",
        "a\x00",
        "a" * 101,
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert system_packages.problem(name) is not None
    with pytest.raises(WireError, match=r"options\.packages\[0\]: "):
        SubmitOptions.from_dict({"packages": [name]})


@pytest.mark.parametrize("value", ["bash", [1], {}, ["a"] * 101])
def test_what_is_no_list_of_names(value: object) -> None:
    with pytest.raises(WireError, match=r"options\.packages"):
        SubmitOptions.from_dict({"packages": value})


def test_none_are_not_sent() -> None:
    assert "packages" not in SubmitOptions().to_dict()
    assert SubmitOptions(packages=("bash",)).to_dict()["packages"] == ["bash"]
