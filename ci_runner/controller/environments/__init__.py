"""Preparation of a job's container: image, workspace, environment, services."""
