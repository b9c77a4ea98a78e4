"""The plan that a submitted project's own files define."""

from __future__ import annotations

from ci_runner.blobs import BlobStore
from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.request import RunRequest
from pytest_remote_ci.wire import Manifest


def plan_in(blobs: BlobStore, manifest: Manifest, request: RunRequest) -> Plan:
    """The plan of the pipeline that `request` names; raises `InvalidSubmission` with all that is wrong with it."""
    raise InvalidSubmission("options.plan: is missing")
