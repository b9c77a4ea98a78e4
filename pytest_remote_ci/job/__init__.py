"""What runs inside a job's container: standard library only, readable by CPython 3.8 and newer.

The modules here are mounted into containers as plain files and must not import the rest of the package
(see `docs/internals/index.md`).
"""
