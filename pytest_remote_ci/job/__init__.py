"""Modules that run inside a job's container: standard library only, for CPython 3.8 and newer.

They are mounted into containers as plain files and must not import the rest of the package (see
`docs/internals/index.md`).
"""
