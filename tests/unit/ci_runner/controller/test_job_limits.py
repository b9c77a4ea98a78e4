"""The limits of a job's container."""

from __future__ import annotations

from typing import Any

import pytest

from ci_runner.controller.engine import Limits
from ci_runner.controller.job_limits import limits_of, reductions
from ci_runner.errors import PermanentError
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire.protocol import SubmitOptions

MIB = 1 << 20


def test_a_job_that_names_none_gets_the_defaults() -> None:
    found = limits_of(SubmitOptions(), ReconcileSettings(max_cpus=4.0))
    assert found == Limits(cpus=1.0)


def test_a_job_gets_what_it_names() -> None:
    asked = SubmitOptions(
        shm_size=600 * MIB, tmp_size=700 * MIB, home_size=MIB, file_size=2048 * MIB, open_files=20_000
    )
    found = limits_of(asked, ReconcileSettings(max_cpus=4.0))
    assert found == Limits(
        shm_size=600 * MIB,
        tmp_size=700 * MIB,
        home_size=MIB,
        file_size=2048 * MIB,
        open_files=20_000,
        soft_open_files=20_000,
    )


def test_maxima_below_the_defaults_hold_for_jobs_that_name_nothing() -> None:
    most: dict[str, Any] = {
        f"max_{name}": 2 * MIB for name in ("shm_size", "tmp_size", "home_size", "file_size")
    }
    found = limits_of(SubmitOptions(), ReconcileSettings(max_open_files=100, **most))
    assert {found.shm_size, found.tmp_size, found.home_size, found.file_size} == {2 * MIB}
    assert (found.open_files, found.soft_open_files) == (100, 100)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            {"shm_size": 9 << 30},
            "shm-size: this runner allows at most 8 GiB; lower shm-size, or ask its operator to raise max-shm-size",
        ),
        (
            {"services": [{"name": "db", "image": "x", "shm_size": "9g"}]},
            "service db: shm-size: this runner allows at most 8 GiB; lower shm-size, or ask its operator to raise",
        ),
        ({"tmp_size": (8 << 30) + 1}, "tmp-size: this runner allows at most 8 GiB;"),
        ({"home_size": 9 << 30}, "home-size: this runner allows at most 8 GiB;"),
        ({"file_size": 5 << 30}, "file-size: this runner allows at most 4 GiB;"),
        ({"open_files": 65_537}, "open-files: this runner allows at most 65536 files; lower open-files,"),
    ],
)
def test_a_request_above_the_maximum_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(PermanentError) as caught:
        limits_of(SubmitOptions.from_dict(asked), ReconcileSettings())
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_request_that_gets_the_maximum_instead_is_told() -> None:
    settings = ReconcileSettings(max_cpus=4.0)
    asked = SubmitOptions(cpus=8.5, memory=16 << 30, timeout=7200.0)
    assert reductions(asked, settings) == [
        "cpus: 8.5 requested, this runner allows 4",
        "memory: 16 GiB requested, this runner allows 8 GiB",
        "timeout: 2 h requested, this runner allows 60 min",
    ]
    assert reductions(SubmitOptions(), settings) == []
    assert reductions(SubmitOptions(cpus=4.0, memory=8 << 30, timeout=3600.0), settings) == []
