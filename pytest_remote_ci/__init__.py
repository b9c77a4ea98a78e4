"""Run a project's tests on a remote runner and see the results locally: ``pytest --remote-ci``.

This is the package that developers install; the server is `ci_runner`. Nothing is imported here, because pytest loads
`pytest_remote_ci.plugin` in every session, even if it is not used.
"""

#: pytest warns about a plugin's package that was imported before pytest started, as in ``remote-ci pytest``, unless
#: its docstring has this word. It is an assignment, because ``-OO`` drops docstrings.
__doc__ = f"{__doc__ or ''}\nPYTEST_DONT_REWRITE\n"

__version__ = "0.1.0"
