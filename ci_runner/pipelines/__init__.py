"""Pipelines: stages of jobs, defined in a project's files, checked as a whole, and turned into a plan of jobs.

This package is pure: it turns texts into frozen values and lists of problems. `ci_runner.store` stores runs;
`ci_runner.controller` decides their progress.
"""
