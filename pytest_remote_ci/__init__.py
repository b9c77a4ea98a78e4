"""Run a project's tests on a remote runner and see the results here: ``pytest --remote-ci``.

This package is what a developer installs; the server product is `ci_runner`. Nothing is imported
here, because pytest loads `pytest_remote_ci.plugin` in every session, also in those that never use it.
"""

__version__ = "0.1.0"
