"""Command lines with which the plugins that people use are compared; `test_plugins` runs them."""

from __future__ import annotations

#: Distributions that a project of the tests asks for: name of the set → their requirements.
THERE: dict[str, tuple[str, ...]] = {
    "none": (),
    "reporters": ("pytest-html", "pytest-json-report", "pytest-reportlog", "pytest-sugar"),
    "tools": (
        "pytest-asyncio", "pytest-benchmark", "pytest-cov", "pytest-mock", "pytest-rerunfailures", "pytest-timeout",
        "pytest-xdist",
    ),
    "more": ("pytest-django", "django<6", "pytest-mock", "pytest-randomly", "pytest-xdist", "teamcity-messages"),
    "older": ("pytest<9", "pytest-subtests"),
}  # fmt: skip

#: What the developer has who has all plugins.
EVERYTHING = tuple(sorted({*THERE["reporters"], *THERE["tools"], *THERE["more"]} - {"django<6"}))

#: Plugin → (suite, set of requirements, command line). Each is run with the plugin over there only, and in both places.
LINES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "pytest-rerunfailures": (("plugins", "tools", "test_reruns.py -rA"),),
    "pytest-timeout": (("plugins", "tools", "test_timeouts.py"),),
    "pytest-asyncio": (("plugins", "tools", "test_asynchronous.py -v"),),
    "pytest-benchmark": (("plugins", "tools", "test_benchmarks.py -v"),),
    "pytest-mock": (("plugins", "tools", "test_mocks.py"),),
    "pytest's subtests": (("plugins", "tools", "test_subtests.py -v -rA"),),
    "pytest-xdist": (
        ("plugins", "tools", "test_groups.py -n 1 -v"),
        ("plugins", "tools", "test_groups.py test_subtests.py -n 2 -q"),
        ("plugins", "tools", "test_groups.py test_mocks.py -n auto --dist loadfile"),
        ("plugins", "tools", "test_groups.py -n 2 --dist loadgroup -v"),
    ),
    "pytest-randomly": (
        ("plugins", "more", "test_mocks.py test_groups.py -p randomly --randomly-seed=7 -v"),
    ),
    "pytest-django": (("django_site", "more", "-v -p no:randomly"),),
}
