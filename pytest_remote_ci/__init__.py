"""Run a project's tests on a remote runner and see the results here: ``pytest --remote-ci``.

This package is what a developer installs; the server product is `ci_runner`. Nothing is imported
here, because pytest loads `pytest_remote_ci.plugin` in every session, also in those that never use it.
"""

#: pytest warns of a plugin's package that was imported before pytest started, as in ``remote-ci pytest``, unless it
#: finds this word in the docstring. An assignment, because ``-OO`` drops docstrings.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"

__version__ = "0.1.0"
