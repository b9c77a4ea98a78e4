"""The runner: an HTTP plane (`serve`), a controller (`reconcile`) and one database between them.

`docs/internals/index.md` tells how a job walks through it and who may import whom.
"""

#: As in `pytest_remote_ci`: this package is in the same distribution as a pytest plugin.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"
