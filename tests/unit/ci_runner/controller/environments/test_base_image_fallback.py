"""Which base image a job gets where the usual one cannot be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.controller.environments.base_image import choose_base
from ci_runner.errors import ImageUnavailable
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.protocol import SubmitOptions


@pytest.fixture
def engine() -> Iterator[MemoryEngine]:
    """Has one image that was made here, with Python 3.11."""
    with contextlib.closing(MemoryEngine(pythons=("3.11",))) as engine:
        engine.images = {"ci-runner-base:bookworm"}
        yield engine


def test_an_image_made_here_stands_in_and_that_is_said(engine: MemoryEngine) -> None:
    log: list[str] = []
    base = choose_base(engine, ReconcileSettings(), SubmitOptions(python="3.11"), log.append)
    assert (base.image.reference, base.python) == ("ci-runner-base:bookworm", "3.11")
    assert log == ["image python:3.11-slim is not available; using ci-runner-base:bookworm"]


def test_without_the_python_asked_for_both_ways_out_are_named(engine: MemoryEngine) -> None:
    with pytest.raises(
        ImageUnavailable, match=r"made here have Python 3\.11: .*--python 3\.13`.*--remote-ci-python"
    ):
        choose_base(engine, ReconcileSettings(), SubmitOptions(python="3.13"), lambda line: None)
