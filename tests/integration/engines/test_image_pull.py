"""Base images that the engine does not have yet come from a registry; here one of the tests' own."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.image_registry import Registry, registry

from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.errors import ImageUnavailable

pytestmark = pytest.mark.docker


@pytest.fixture
def source() -> Iterator[Registry]:
    with registry(ci_runner__pythons="3.9,3.12") as made:
        yield made
        subprocess.run(["docker", "rmi", "--force", made.reference], capture_output=True, check=False)


@pytest.fixture
def engine(docker_engine: str, tmp_path: Path) -> Iterator[DockerEngine]:
    made = DockerEngine(uuid.uuid4().hex[:12], scratch=tmp_path)
    yield made
    made.close()


def test_an_image_that_is_not_there_is_pulled_once_and_says_how_far_it_is(
    engine: DockerEngine, source: Registry
) -> None:
    with pytest.raises(ImageUnavailable, match="is not on the runner"):
        engine.image(source.reference, pull=False)
    assert source.asked == []

    lines: list[str] = []
    image = engine.image(source.reference, progress=lines.append)
    assert image.reference == source.reference
    assert image.id.startswith("sha256:")
    assert image.pythons == ("3.9", "3.12")
    assert any("Pull complete" in line for line in lines), lines
    assert any(line.startswith("Status: Downloaded") for line in lines), lines

    source.asked.clear()
    assert engine.image(source.reference) == image
    assert source.asked == []


def test_an_image_named_by_its_digest_is_pulled_as_it_is(engine: DockerEngine, source: Registry) -> None:
    digest = next(path for path in source.content if "sha256" in path and "manifests" in path).rpartition(
        "/"
    )[2]
    reference = f"{source.reference.rpartition(':')[0]}@{digest}"
    try:
        assert engine.image(reference).id.startswith("sha256:")
    finally:
        subprocess.run(["docker", "rmi", "--force", reference], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("status", "code"), [(404, "MANIFEST_UNKNOWN"), (403, "DENIED"), (401, "UNAUTHORIZED"), (500, "UNKNOWN")]
)
def test_a_registry_that_refuses_ends_the_job_with_the_next_step(
    engine: DockerEngine, source: Registry, status: int, code: str
) -> None:
    source.refusal = (status, code)
    with pytest.raises(ImageUnavailable) as caught:
        engine.image(source.reference)
    text = str(caught.value)
    assert source.reference in text
    assert "could not be pulled" in text
    assert "ci-runner image build" in text
    assert "\n" not in text


def test_an_image_damaged_on_its_way_is_refused(engine: DockerEngine, source: Registry) -> None:
    """The engine tells it in the middle of the pull, after it began well."""
    for path, (kind, data) in list(source.content.items()):
        if "/blobs/" in path and data[:2] == b"\x1f\x8b":
            source.content[path] = (kind, data[:-8] + bytes(8))
    with pytest.raises(ImageUnavailable, match=r"could not be pulled \(.*(verif|digest)"):
        engine.image(source.reference)
    with pytest.raises(ImageUnavailable, match="is not on the runner"):
        engine.image(source.reference, pull=False)
