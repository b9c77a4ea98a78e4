"""The runner: an HTTP plane (`serve`), a controller (`reconcile`) and one database between them.

`docs/internals.md` tells how a job walks through it and who may import whom.
"""
