"""Names of base images: references, the Pythons found in them, and progress lines of a pull. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: On images: the CPython versions found in them, as "3.11,3.12".
LABEL_PYTHONS: Final = "ci-runner.pythons"


def parse_pythons(text: str) -> tuple[str, ...]:
    """Return the distinct versions in "3.11,3.12" or in lines of them, ascending; skip anything else."""
    found = set(re.findall(r"(?<![\d.])(3\.\d{1,2})(?![\d.])", text))
    return tuple(sorted(found, key=lambda version: int(version.split(".")[1])))


def pull_line(step: Mapping[str, object]) -> str | None:
    """Return a line for the user from one element of a pull's stream; None for progress within one layer."""
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
    """Return repository and tag (or digest) of an image reference; a missing tag is `latest`."""
    if "@" in reference:
        repository, _, digest = reference.partition("@")
        return repository, digest
    repository, colon, tag = reference.rpartition(":")
    if colon and "/" not in tag:
        return repository, tag
    return reference, "latest"
