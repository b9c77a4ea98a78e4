"""Which secrets builds get, and what of them may be known."""

from __future__ import annotations

import pytest

from ci_runner.controller.environments.credentials import Credentials, is_credential

URL = "https://ann:s3cret%2Bword@index.example/simple"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("UV_INDEX_ACME_USERNAME", True),
        ("UV_INDEX_ACME_2_PASSWORD", True),
        ("UV_DEFAULT_INDEX", True),
        ("UV_EXTRA_INDEX_URL", True),
        ("PIP_INDEX_URL", True),
        ("PIP_EXTRA_INDEX_URL", True),
        ("NETRC", True),
        ("UV_INDEX_ACME_URL", False),
        ("UV_CACHE_DIR", False),
        ("UV_PYTHON", False),
        ("PIP_TARGET", False),
        ("HOME", False),
        ("TOKEN", False),
        ("XNETRC", False),
    ],
)
def test_only_variables_of_indexes_and_repositories_are_for_builds(name: str, expected: bool) -> None:
    assert is_credential(name) is expected


def test_pips_variables_are_uvs_too_and_further_indexes_of_the_operator_stay() -> None:
    found = Credentials({"PIP_INDEX_URL": URL, "PIP_EXTRA_INDEX_URL": "https://a/", "NETRC": "machine x"})
    env = found.add_to({"UV_DEFAULT_INDEX": "https://pypi/", "UV_INDEX": "https://operator/", "A": "b"})
    assert env == {
        "PIP_INDEX_URL": URL,
        "UV_DEFAULT_INDEX": URL,
        "PIP_EXTRA_INDEX_URL": "https://a/",
        "UV_INDEX": "https://a/ https://operator/",
        "A": "b",
    }
    assert found.netrc == "machine x"


def test_the_key_knows_indexes_and_no_secret() -> None:
    values = {"PIP_INDEX_URL": URL, "UV_INDEX_ACME_PASSWORD": "s3cret", "NETRC": "password s3cret"}
    assert Credentials(values).key() == [
        "NETRC",
        "PIP_INDEX_URL=https://index.example/simple",
        "UV_INDEX_ACME_PASSWORD",
    ]
    assert "s3cret" not in repr(Credentials(values))
    assert not Credentials()
    assert Credentials().key() == []


@pytest.mark.parametrize(
    "shown", [URL, "s3cret%2Bword", "s3cret+word", "https://bob:other-word@x", "l0ng-password"]
)
def test_passwords_within_values_are_masked_by_themselves(shown: str) -> None:
    netrc = "machine a login ann password l0ng-password\nmachine b\n  login x\n  password other-word\n"
    mask = Credentials({"PIP_INDEX_URL": URL, "NETRC": netrc}).mask()
    masked = mask(f"error: cannot open <{shown}>")
    assert "***" in masked
    assert not any(word in masked for word in ("s3cret", "other-word", "l0ng-password"))
    assert Credentials().mask()(shown) == shown
