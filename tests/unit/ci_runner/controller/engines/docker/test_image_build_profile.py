"""What the container of an image build may do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci_runner.controller.engine import Bind, ImageBuild, Limits
from ci_runner.controller.engines.docker import container_profile, image_build_profile
from ci_runner.errors import PermanentError

GOLDEN = Path(__file__).with_name("image_build_profile.json")
PROFILE = container_profile.Profile("0123456789ab", 65532, 65532)
SPEC = ImageBuild(
    name="cir-build-1",
    image_id="sha256:abc",
    job_id="job",
    attempt=1,
    binds=(Bind(Path("/etc/ca.pem"), "/tmp/ca.pem"),),
    limits=Limits(cpus=2, memory=4 << 30, pids=1024, file_size=8 << 30),
)


def test_the_profile_is_the_golden_one() -> None:
    """Every line of that file keeps something from escaping: change it only with a reason that a review accepts."""
    assert image_build_profile.image_build_config(SPEC, PROFILE) == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    "bind",
    [
        Bind(Path("/etc/ca.pem"), "/ci/ca.pem"),
        Bind(Path("/etc/ca.pem"), "/tmp/x", read_only=False),
    ],
)
def test_only_files_that_leave_no_trace_are_mounted(bind: Bind) -> None:
    with pytest.raises(PermanentError, match="cannot be mounted"):
        image_build_profile.image_build_config(ImageBuild("x", "y", "z", 1, (bind,)), PROFILE)
