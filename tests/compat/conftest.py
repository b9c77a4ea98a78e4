"""Tests that talk to a runner as the reference systems' users did have the fixtures of end-to-end tests."""

from __future__ import annotations

from e2e.conftest import developer, every_answer_is_as_described, project, runner

__all__ = ["developer", "every_answer_is_as_described", "project", "runner"]
