"""Base images by name: references, the Pythons that are found in them, and what a pull says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

#: On images: CPython versions found in them, as "3.11,3.12".
LABEL_PYTHONS: Final = "ci-runner.pythons"


def parse_pythons(text: str) -> tuple[str, ...]:
    """Distinct versions out of "3.11,3.12" or lines of them, ascending; what is no version is left out."""
    found = set(re.findall(r"(?<![\d.])(3\.\d{1,2})(?![\d.])", text))
    return tuple(sorted(found, key=lambda version: int(version.split(".")[1])))


def pull_line(step: Mapping[str, Any]) -> str | None:
    """What one element of a pull's stream has to say to a person; progress within one layer says nothing."""
    status = str(step.get("status", "")).strip()
    if not status or status in (
        "Downloading",
        "Extracting",
        "Waiting",
        "Pulling fs layer",
        "Verifying Checksum",
    ):
        return None
    return f"{step['id']}: {status}" if step.get("id") else status


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag (or digest) of an image reference; a missing tag is `latest`."""
    if "@" in reference:
        repository, _, digest = reference.partition("@")
        return repository, digest
    repository, colon, tag = reference.rpartition(":")
    if colon and "/" not in tag:
        return repository, tag
    return reference, "latest"
