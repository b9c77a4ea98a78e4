"""Artifacts of a job: download, checks and local places."""
