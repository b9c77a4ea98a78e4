"""What an operator is told about a Docker engine."""

from __future__ import annotations

import pytest

from ci_runner.controller.engines.docker import api, docker_json, probe
from ci_runner.errors import EngineUnavailable, PermanentError

SOUND: docker_json.Info = {
    "OSType": "linux",
    "LiveRestoreEnabled": True,
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default", "name=cgroupns"],
    "Driver": "overlay2",
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
}


def version(runc: str = "1.3.3") -> docker_json.Version:
    return {"Version": "28.0", "ApiVersion": "1.50", "Components": [{"Name": "runc", "Version": runc}]}


def test_a_sound_engine_has_no_problem() -> None:
    assert probe.warnings(version(), SOUND) == []


@pytest.mark.parametrize(
    ("info", "words"),
    [
        pytest.param({"LiveRestoreEnabled": False}, "live-restore", id="no live-restore"),
        pytest.param({"SecurityOptions": ["name=apparmor"]}, "seccomp", id="no seccomp"),
        pytest.param({"SecurityOptions": ["name=seccomp,profile=builtin"]}, "AppArmor", id="no AppArmor"),
        pytest.param({"PidsLimit": False}, "process limits", id="no limit of processes"),
        pytest.param({"MemoryLimit": False}, "memory limits", id="no limit of memory"),
    ],
)
def test_each_weakness_is_one_sentence(info: docker_json.Info, words: str) -> None:
    (said,) = probe.warnings(version(), {**SOUND, **info})
    assert words in said


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("1.1.5+ds1", False),
        ("1.2.7", False),
        ("1.2.8", True),
        ("1.3.2", False),
        ("1.3.3", True),
        ("1.4.0", True),
        ("1.5.1", True),
        ("2.0.0", True),
        ("1.0.0-rc95", False),
        ("unknown", True),
    ],
)
def test_versions_of_runc_with_known_escapes(text: str, safe: bool) -> None:
    assert probe.is_safe_runc(text) is safe
    assert bool(probe.warnings(version(text), SOUND)) is not safe


@pytest.mark.parametrize(
    ("url", "info", "refused"),
    [
        ("unix:///var/run/docker.sock", {}, False),
        ("tcp://10.0.0.5:2376", {}, True),
        ("ssh://somebody@somewhere", {}, True),
        ("unix:///var/run/docker.sock", {"OSType": "windows"}, True),
    ],
)
def test_engines_that_cannot_share_folders_are_refused(
    url: str, info: docker_json.Info, refused: bool
) -> None:
    assert bool(probe.unreachable_host({**SOUND, **info}, url)) is refused


def test_the_likeliest_base_image_is_probed() -> None:
    images: list[docker_json.ImageSummary] = [
        {"RepoTags": ["<none>:<none>"], "Size": 1, "Id": "untagged", "Labels": {"ci-runner.pythons": "3.11"}},
        {"RepoTags": ["postgres:16"], "Size": 2, "Id": "other", "Labels": None},
        {"RepoTags": ["python:3.12"], "Size": 3, "Id": "python", "Labels": None},
        {"RepoTags": ["mine:1"], "Size": 4, "Id": "ours", "Labels": {"ci-runner.pythons": "3.11"}},
    ]
    found = probe.choose_image(images)
    assert found is not None
    assert found["Id"] == "ours"
    assert probe.choose_image(images[:1]) is None
    assert probe.choose_image([]) is None


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "bad parameter", PermanentError),
        (404, "No such image", PermanentError),
        (500, "something broke", EngineUnavailable),
        (500, "OCI runtime create failed: x", PermanentError),
        (500, "failed to mount local volume: x", PermanentError),
        (None, "no answer", EngineUnavailable),
    ],
)
def test_answers_are_temporary_or_permanent(status: int | None, text: str, kind: type[Exception]) -> None:
    assert type(api.from_answer("do it", status, text)) is kind
