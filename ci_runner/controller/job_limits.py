"""The limits of a job's container: what the job requests, the runner's defaults and the operator's maxima.

Requests for more processors, memory or time than the maximum get the maximum, with a line in the job's log. The other
limits are about what a test can do at all, so a request that cannot be met is refused before anything runs.
"""

from __future__ import annotations

from typing import Final

from ci_runner.controller.engine import Limits
from ci_runner.errors import PermanentError
from ci_runner.settings.groups import ReconcileSettings
from pytest_remote_ci.wire import formats, limits
from pytest_remote_ci.wire.checks import ServiceOptions
from pytest_remote_ci.wire.protocol import SubmitOptions

_DEFAULT: Final = Limits()


def limits_of(options: SubmitOptions, settings: ReconcileSettings) -> Limits:
    """Return the limits of a job. Raises `PermanentError` if it or a service requests more than is allowed."""
    for service in options.services:
        service_limits(service, settings)
    most_files = settings.max_open_files
    return Limits(
        cpus=min(options.cpus or settings.cpus, settings.max_cpus),
        memory=min(options.memory or settings.memory, settings.max_memory),
        pids=settings.pids,
        file_size=_size("file_size", options.file_size, _DEFAULT.file_size, settings.max_file_size),
        tmp_size=_size("tmp_size", options.tmp_size, _DEFAULT.tmp_size, settings.max_tmp_size),
        shm_size=_size("shm_size", options.shm_size, _DEFAULT.shm_size, settings.max_shm_size),
        home_size=_size("home_size", options.home_size, _DEFAULT.home_size, settings.max_home_size),
        open_files=_allowed(
            "open_files", options.open_files, _DEFAULT.open_files, most_files, f"{most_files} files"
        ),
        # Programs rarely raise their soft limit themselves.
        soft_open_files=options.open_files or min(_DEFAULT.soft_open_files, most_files),
    )


def service_limits(service: ServiceOptions, settings: ReconcileSettings) -> Limits:
    """Return the limits of a service: what a job has by default, and what it requests itself."""
    try:
        shm_size = _size("shm_size", service.get("shm_size"), _DEFAULT.shm_size, settings.max_shm_size)
    except PermanentError as error:
        raise PermanentError(f"service {service['name']}: {error}") from error
    return Limits(cpus=settings.cpus, memory=settings.memory, pids=settings.pids, shm_size=shm_size)


def reductions(options: SubmitOptions, settings: ReconcileSettings) -> list[str]:
    """Return a line for each request that gets the operator's maximum instead."""
    found = []
    if options.cpus is not None and options.cpus > settings.max_cpus:
        found.append(f"cpus: {options.cpus:g} requested, this runner allows {settings.max_cpus:g}")
    if options.memory is not None and options.memory > settings.max_memory:
        asked, most = formats.size(options.memory), formats.size(settings.max_memory)
        found.append(f"memory: {asked} requested, this runner allows {most}")
    if options.timeout is not None and options.timeout > settings.test_timeout:
        asked, most = formats.duration(options.timeout), formats.duration(settings.test_timeout)
        found.append(f"timeout: {asked} requested, this runner allows {most}")
    return found


def _size(name: str, asked: int | None, default: int, most: int) -> int:
    return _allowed(name, asked, default, most, formats.size(most))


def _allowed(name: str, asked: int | None, default: int, most: int, words: str) -> int:
    if asked is not None and asked > most:
        key = limits.key(name)
        raise PermanentError(
            f"{key}: this runner allows at most {words}; lower {key}, or ask its operator to raise max-{key}"
        )
    return min(default if asked is None else asked, most)
