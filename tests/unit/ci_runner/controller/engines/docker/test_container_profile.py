"""Between our nouns and Docker's JSON."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller.engine import Bind, ContainerSpec, Limits, Overlay
from ci_runner.controller.engines.docker import container_profile, docker_json, image_refs
from ci_runner.errors import PermanentError

GOLDEN = Path(__file__).with_name("container_profile.json")
FEATURES = container_profile.Features(renames=True, ipv6_loopback=True)
PROFILE = container_profile.Profile("0123456789ab", 65532, 65532, FEATURES)
SPEC = ContainerSpec(
    name="cir-job-1",
    image_id="sha256:abc",
    argv=("/ci/env/bin/python", "-I", "-S", "/ci/tools/worker.py", "/ci/spool"),
    role="test",
    job_id="job",
    attempt=1,
    env={"PYTHONHASHSEED": "0", "A": "x=y"},
    cwd="/root/projects/demo",
    binds=(
        Bind(Path("/data/tools/1"), "/ci/tools"),
        Bind(Path("/data/job/1/spool"), "/ci/spool", read_only=False),
    ),
    overlay=Overlay(
        (Path("/data/layers/1"), Path("/data/trees/1")),
        Path("/data/job/1/upper"),
        Path("/data/job/1/work"),
        "/root/projects/demo",
    ),
    limits=Limits(),
)


def test_the_containment_profile_is_the_golden_one() -> None:
    """Every line of that file keeps something from escaping: change it only with a reason that a review accepts."""
    assert container_profile.container_config(SPEC, PROFILE) == json.loads(GOLDEN.read_text())


def test_without_network_there_is_only_loopback() -> None:
    spec = dataclasses.replace(SPEC, network="none")
    assert container_profile.container_config(spec, PROFILE)["HostConfig"]["NetworkMode"] == "none"


def test_a_name_without_network_has_an_address() -> None:
    variants: tuple[dict[str, Any], ...] = ({"network": "none"}, {"network": "none", "join": "abc"}, {})
    hosts = [
        container_profile.container_config(dataclasses.replace(SPEC, **changes), PROFILE)["HostConfig"].get(
            "ExtraHosts"
        )
        for changes in variants
    ]
    assert hosts == [["job:127.0.0.1"], None, None]


def test_what_an_engine_does_not_allow_is_not_asked_of_it() -> None:
    config = container_profile.container_config(
        SPEC, dataclasses.replace(PROFILE, features=container_profile.Features())
    )
    assert "Sysctls" not in config["HostConfig"]
    assert "redirect_dir" not in json.dumps(config)


def test_what_a_build_writes_refers_to_no_other_layer() -> None:
    config = container_profile.container_config(dataclasses.replace(SPEC, role="build"), PROFILE)
    assert "redirect_dir" not in json.dumps(config)


def test_the_network_separates_containers() -> None:
    config = container_profile.network_config("0123456789ab", 1400)
    assert config["name"] == "ci-runner-0123456789ab"
    assert config["labels"] == {"ci-runner.install": "0123456789ab"}
    assert config["options"] == {
        "com.docker.network.enable_ipv6": "false",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.name": "cir0123456789ab",
        "com.docker.network.driver.mtu": "1400",
    }
    assert "com.docker.network.driver.mtu" not in container_profile.network_config("0123456789ab")["options"]


@pytest.mark.parametrize("install", ["0123456789ab", "x", "a-much-longer-name-than-fits", "ÜÄ"])
def test_a_bridge_name_fits_the_kernel(install: str) -> None:
    assert len(container_profile.bridge_name(install)) == 15


@pytest.mark.parametrize(
    ("target", "mask"),
    [
        ("/workspace", None),
        ("/root", None),
        ("/root/a/b", "/root"),
        ("/rooted/a", None),
        ("/home/me", None),
        ("/home/me/proj", "/home/me"),
        ("/tmp/x", None),
        ("/srv/x/y", None),
    ],
)
def test_closed_folders_above_a_mount_point_are_masked(target: str, mask: str | None) -> None:
    assert container_profile.mask_for(target) == mask


def test_a_folder_that_is_a_mount_point_itself_is_not_masked() -> None:
    binds = (Bind(Path("/x"), "/home/me"), Bind(Path("/y"), "/home/me/sub"))
    mounts = container_profile.mounts(dataclasses.replace(SPEC, overlay=None, binds=binds), PROFILE)
    assert [mount["Target"] for mount in mounts] == ["/home/me", "/home/me/sub"]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "",
        "relative",
        "/a/../b",
        "/a/",
        "//a",
        "/proc",
        "/proc/x",
        "/sys/fs",
        "/dev/x",
        "/usr",
        "/etc",
        "/ci",
        "/tmp",
        "/ci/home",
        "/a\0b",
    ],
)
def test_mount_points_that_would_break_a_container_are_refused(target: str) -> None:
    spec = dataclasses.replace(SPEC, overlay=None, binds=(Bind(Path("/x"), target),))
    with pytest.raises(PermanentError):
        container_profile.container_config(spec, PROFILE)


@pytest.mark.parametrize("folder", ["/da,ta", "/da:ta", "/da\\ta", '/da"ta'])
def test_a_data_directory_that_mount_options_cannot_name_is_refused(folder: str) -> None:
    overlay = Overlay((Path(folder),), Path("/u"), Path("/w"), "/workspace")
    with pytest.raises(PermanentError, match="data directory"):
        container_profile.container_config(dataclasses.replace(SPEC, overlay=overlay), PROFILE)


def test_too_many_layers_are_refused() -> None:
    overlay = Overlay(
        tuple(Path(f"/data/{'x' * 100}{i}") for i in range(40)), Path("/u"), Path("/w"), "/workspace"
    )
    with pytest.raises(PermanentError, match="layers"):
        container_profile.container_config(dataclasses.replace(SPEC, overlay=overlay), PROFILE)


def test_the_hosts_paths_are_taken_out_of_the_engines_words() -> None:
    text = "invalid mount: /data/job/1/upper and /data/tools/1/x"
    assert container_profile.scrub(text, SPEC) == "invalid mount: /root/projects/demo and /ci/tools/x"


def test_a_container_of_another_user_has_its_home(tmp_path: Path) -> None:
    config = container_profile.container_config(dataclasses.replace(SPEC, uid=65533), PROFILE)
    assert config["User"] == "65533:65533"
    assert "uid=65533,gid=65533" in config["HostConfig"]["Tmpfs"]["/ci/home"]


def inspected(state: docker_json.State) -> docker_json.Container:
    return {
        "Id": "c1",
        "Name": "/cir-job-1",
        "Config": {"Labels": container_profile.labels(SPEC, "0123456789ab")},
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "OOMKilled": False,
            "Error": "",
            "StartedAt": "2026-01-02T03:04:05.123456789Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            **state,
        },
        "HostConfig": {},
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param({}, {"state": "running", "exit_code": None, "finished_at": None}, id="running"),
        pytest.param(
            {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
            {"state": "exited", "exit_code": 137, "oom_killed": True},
            id="killed for memory",
        ),
        pytest.param(
            {"Status": "exited", "OOMKilled": True},
            {"state": "exited", "exit_code": 0, "oom_killed": True},
            id="only a child was killed for memory",
        ),
        pytest.param(
            {"Status": "created", "ExitCode": 127, "Error": "no such file"},
            {"state": "created", "exit_code": 127, "error": "no such file"},
            id="could not be started",
        ),
        pytest.param(
            {"Status": "created"}, {"state": "created", "exit_code": None, "error": None}, id="created"
        ),
        pytest.param({"Status": "dead", "ExitCode": 255}, {"state": "dead", "exit_code": 255}, id="dead"),
        pytest.param({"Status": "paused"}, {"state": "paused", "exit_code": None}, id="paused"),
        pytest.param({"Status": "restarting"}, {"state": "running"}, id="a state that we do not use"),
    ],
)
def test_an_inspection_becomes_an_observation(state: docker_json.State, expected: dict[str, Any]) -> None:
    seen = container_profile.observed(inspected(state))
    assert (seen.id, seen.name, seen.role, seen.job_id, seen.attempt) == ("c1", "cir-job-1", "test", "job", 1)
    assert {name: getattr(seen, name) for name in expected} == expected


def test_what_ended_at_once_did_not_end_before_it_started() -> None:
    seen = container_profile.observed(inspected({"Status": "exited", "FinishedAt": "2026-01-02T03:04:05.1Z"}))
    assert seen.started_at is not None
    assert seen.started_at == seen.finished_at


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05.123456789Z", dt.datetime(2026, 1, 2, 3, 4, 5, 123456, dt.timezone.utc)),
        ("2026-01-02T03:04:05Z", dt.datetime(2026, 1, 2, 3, 4, 5, 0, dt.timezone.utc)),
        ("2026-01-02T03:04:05.5+01:00", dt.datetime(2026, 1, 2, 2, 4, 5, 500000, dt.timezone.utc)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_times_of_the_engine(text: str | None, expected: dt.datetime | None) -> None:
    assert container_profile.parse_time(text) == expected


def test_only_the_same_install_role_job_and_attempt_is_ours() -> None:
    marks = container_profile.labels(SPEC, "0123456789ab")
    assert container_profile.is_ours({**marks, "more": "x"}, marks)
    assert not container_profile.is_ours(marks, container_profile.labels(SPEC, "other"))
    assert not container_profile.is_ours(
        marks, container_profile.labels(dataclasses.replace(SPEC, attempt=2), "0123456789ab")
    )
    assert not container_profile.is_ours({}, marks)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (container_profile.labels(SPEC, "x"), True),
        ({**container_profile.labels(SPEC, "x"), "ci-runner.role": "probe"}, False),
        ({"ci-runner.install": "x"}, False),
    ],
)
def test_what_is_no_job_is_not_observed(marks: dict[str, str], expected: bool) -> None:
    assert container_profile.is_job(marks) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.11,3.12", ("3.11", "3.12")),
        ("3.9\n3.12\n3.9\n3.10\n", ("3.9", "3.10", "3.12")),
        ("", ()),
        ("sh: python3: not found", ()),
        ("13.11 3.111 3.1.1", ()),
    ],
)
def test_versions_of_python_are_read(text: str, expected: tuple[str, ...]) -> None:
    assert image_refs.parse_pythons(text) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("python", ("python", "latest")),
        ("python:3.12-slim", ("python", "3.12-slim")),
        ("registry:5000/team/python", ("registry:5000/team/python", "latest")),
        ("registry:5000/team/python:1", ("registry:5000/team/python", "1")),
        ("python@sha256:abc", ("python", "sha256:abc")),
    ],
)
def test_image_references(reference: str, expected: tuple[str, str]) -> None:
    assert image_refs.split_reference(reference) == expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"status": "Pulling from library/python", "id": "3.12"}, "3.12: Pulling from library/python"),
        ({"status": "Pull complete", "id": "abc"}, "abc: Pull complete"),
        ({"status": "Downloading", "id": "abc"}, None),
        ({"status": "Digest: sha256:1"}, "Digest: sha256:1"),
        ({}, None),
    ],
)
def test_a_pull_says_one_line_per_step(step: dict[str, Any], expected: str | None) -> None:
    assert image_refs.pull_line(step) == expected
