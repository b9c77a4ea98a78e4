"""The Python client of a runner, over HTTP."""
