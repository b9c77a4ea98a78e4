"""The runner: an HTTP server (`serve`), a controller (`reconcile`) and one database between them.

`docs/internals/index.md` describes the path of a job through it, and which package may import which.
"""

#: As in `pytest_remote_ci`: this package is in the same distribution as a pytest plugin.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"
