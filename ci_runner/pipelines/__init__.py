"""Pipelines: stages of jobs, defined in a project's files, checked as a whole, and laid out as a plan of jobs.

Everything here is pure: texts come in, frozen values and lists of mistakes come out. What is kept of a run lives in
`ci_runner.store`, what becomes of it is decided in `ci_runner.controller`.
"""
