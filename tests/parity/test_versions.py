"""Another version of pytest there than here: the same results, in the words of the one that shows them.

`scripts/versions` does it for every combination; docs/reference/parity.md has what it found.
"""

from __future__ import annotations

import pytest
from support.developer import Developer

from . import versions

#: (here, there): the ends of what is supported, both ways, and where subtests changed.
PAIRS = (("7.4.4", "9.2.0"), ("9.2.0", "7.4.4"), ("9.0.3", "9.2.0"))


@pytest.fixture(scope="module")
def skew(developer: Developer, tmp_path_factory: pytest.TempPathFactory) -> versions.Skew:
    return versions.Skew(developer, tmp_path_factory.mktemp("versions"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("here", "there"), PAIRS, ids=[f"{here} here, {there} there" for here, there in PAIRS]
)
def test_results_of_another_version_are_shown_as_they_are(skew: versions.Skew, here: str, there: str) -> None:
    assert {here, there} <= set(versions.VERSIONS)
    assert skew.problem(here, there) == ""
