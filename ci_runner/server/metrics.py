"""Metrics for Prometheus: requests of this process, and the jobs of the runner as the store has them.

The controller has no address of its own, so what it does is read from the store when metrics are asked for: nothing
is measured twice, and a restart of either process loses nothing but counters. No label has a value that users choose.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import falcon
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from ci_runner.errors import RunnerError
from ci_runner.server.context import Services
from ci_runner.store.statistics import Ended, OpenJobs
from pytest_remote_ci import __version__
from pytest_remote_ci.wire.protocol import PHASES

_REQUESTS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DURATIONS: Final = (
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
)
#: Jobs that one scrape counts; the rest is counted by the next ones.
_MOST_ENDED: Final = 2000
#: A job's end is stamped before its transaction is committed: ends are looked for this far back again.
_OVERLAP: Final = dt.timedelta(seconds=30)


class Metrics:
    """All metrics of one server. Thread-safe."""

    def __init__(self, services: Services, streams: Callable[[], int]) -> None:
        """`streams` returns how many event streams are open."""
        self._services = services
        self._registry = CollectorRegistry()
        self._counting = threading.Lock()
        self._since = self._begun = services.clock()
        #: Jobs that ended within the overlap and are counted.
        self._counted: set[str] = set()
        ProcessCollector(namespace="ci_runner_serve", registry=self._registry)
        Gauge("ci_runner_info", "The runner's version", ["version"], registry=self._registry).labels(
            __version__
        ).set(1)
        self.requests = Histogram(
            "ci_runner_http_request_duration_seconds",
            "Requests, up to the begin of an answer that is streamed",
            ["method", "route", "status"],
            buckets=_REQUESTS,
            registry=self._registry,
        )
        self._ended = Counter(
            "ci_runner_jobs_ended",
            "Jobs that ended, by what became of them: passed, failed, cancelled, or no_verdict",
            ["result"],
            registry=self._registry,
        )
        self._waits = Histogram(
            "ci_runner_job_queue_seconds",
            "From a job's submission until it was taken up",
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._durations = Histogram(
            "ci_runner_job_duration_seconds",
            "From a job's submission to its end",
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "ci_runner_job_phase_seconds",
            "Phases of jobs that ended, as `remote-ci show JOB --timing` has them",
            ["phase"],
            buckets=_DURATIONS,
            registry=self._registry,
        )
        self._environments = Counter(
            "ci_runner_job_environments",
            "Environments of jobs that ended: built, or found",
            ["state"],
            registry=self._registry,
        )
        self._containers = Counter(
            "ci_runner_job_containers",
            "Containers of jobs that ended: warm (it waited for the job), or new",
            ["start"],
            registry=self._registry,
        )
        streamed = Gauge("ci_runner_streams", "Open event streams", registry=self._registry)
        streamed.set_function(lambda: float(streams()))
        self._registry.register(_StoreCollector(services))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        self._count_ended()
        return generate_latest(self._registry)

    def _count_ended(self) -> None:
        """Count the jobs that ended since the last time."""
        with self._counting:
            try:
                found = self._services.store.statistics.ended_since(self._since - _OVERLAP, _MOST_ENDED)
            except RunnerError:
                return
            for job in found:
                if job.id not in self._counted and job.end_time >= self._begun:
                    self._count(job)
            if found:
                self._since = max(self._since, found[-1].end_time)
            self._counted = {job.id for job in found if job.end_time >= self._since - _OVERLAP}

    def _count(self, job: Ended) -> None:
        result = {"cancelled": "cancelled", "failed": "no_verdict"}.get(
            job.status, "passed" if job.success else "failed"
        )
        self._ended.labels(result).inc()
        self._durations.observe(_seconds(job.submitted_at, job.end_time))
        if job.start_time is not None:
            self._waits.observe(_seconds(job.submitted_at, job.start_time))
        for phase, seconds in job.timing.ordered():
            self._phases.labels(phase).observe(seconds)
        if "container" in job.timing.phases:
            self._environments.labels("built" if job.timing.cold else "found").inc()
            self._containers.labels("warm" if job.timing.container == "warm" else "new").inc()


class _StoreCollector:
    """What the store and the disk say at the moment."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges; those of the store are missing while it does not answer."""
        services = self._services
        free = float(services.blobs.free_bytes())
        yield GaugeMetricFamily("ci_runner_disk_free_bytes", "Free space of the data directory", value=free)
        yield GaugeMetricFamily(
            "ci_runner_disk_reserve_bytes",
            "Free space below which submissions are refused",
            value=float(services.storage.disk_reserve),
        )
        try:
            jobs, lease = services.store.statistics.open_jobs(), services.store.lease.read()
        except RunnerError:
            yield GaugeMetricFamily("ci_runner_database_up", "Whether the database answers", value=0.0)
            return
        yield GaugeMetricFamily("ci_runner_database_up", "Whether the database answers", value=1.0)
        yield from self._jobs(jobs)
        if lease.heartbeat_at is not None:
            yield GaugeMetricFamily(
                "ci_runner_controller_heartbeat_age_seconds",
                "Since the controller's last sign of life, which comes every few seconds",
                value=_seconds(lease.heartbeat_at, services.clock()),
            )

    def _jobs(self, jobs: OpenJobs) -> Iterator[Metric]:
        by_phase = GaugeMetricFamily("ci_runner_jobs", "Jobs that are not over", labels=["phase"])
        for phase in PHASES:
            by_phase.add_metric([phase], float(jobs.by_phase.get(phase, 0)))
        yield by_phase
        yield GaugeMetricFamily(
            "ci_runner_jobs_building",
            "Jobs whose environment is being built, or waits for that",
            value=float(jobs.building),
        )
        since = jobs.oldest_waiting
        yield GaugeMetricFamily(
            "ci_runner_oldest_waiting_job_seconds",
            "Since the first of the waiting jobs was submitted; 0 if none waits",
            value=0.0 if since is None else _seconds(since, self._services.clock()),
        )


class RequestTimer:
    """Middleware that measures requests by their route, never by their path."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Note when the request begins."""
        req.context.began = time.perf_counter()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Measure the request."""
        seconds = time.perf_counter() - float(req.context.began)
        method = req.method if req.method in falcon.HTTP_METHODS else "other"
        status = f"{resp.status_code // 100}xx"
        self._metrics.requests.labels(method, req.uri_template or "none", status).observe(seconds)


def _seconds(first: dt.datetime, last: dt.datetime) -> float:
    return max(0.0, (last - first).total_seconds())
