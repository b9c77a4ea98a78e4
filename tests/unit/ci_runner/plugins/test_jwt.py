"""Tokens of an identity provider in place of keys."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ci_runner.errors import SettingsError
from ci_runner.plugins.jwt import JWTAuth
from ci_runner.plugins.manager import Plugins

SECRET = "s" * 32
ENVIRON = {
    "CI_RUNNER_JWT_SECRET": SECRET,
    "CI_RUNNER_JWT_AUDIENCE": "ci-runner",
    "CI_RUNNER_JWT_ISSUER": "https://id.example.org",
}


def claims(**changes: Any) -> dict[str, Any]:
    base = {
        "email": "ada@example.org",
        "sub": "user-1",
        "aud": "ci-runner",
        "iss": "https://id.example.org",
        "exp": int(time.time()) + 60,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm)


def plugin(**changes: str) -> JWTAuth:
    made = JWTAuth()
    made.configure({**ENVIRON, **changes})
    return made


def unsigned() -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims())}."


def test_a_valid_token_names_its_user() -> None:
    plugins = Plugins({**ENVIRON})
    plugins.register(JWTAuth(), "jwt")
    assert plugins.authenticate(credentials=token()) == "ada@example.org"


def test_the_subject_can_name_the_user() -> None:
    assert plugin(CI_RUNNER_JWT_CLAIM="sub").authenticate(token()) == "user-1"


@pytest.mark.parametrize(
    "credentials",
    [
        pytest.param(token("x" * 32), id="signed by somebody else"),
        pytest.param(token(exp=int(time.time()) - 60), id="expired"),
        pytest.param(token(exp=None), id="for ever"),
        pytest.param(token(aud="other"), id="for another audience"),
        pytest.param(token(aud=None), id="for no audience"),
        pytest.param(token(iss="https://evil.example.org"), id="of another issuer"),
        pytest.param(token(iss=None), id="of no issuer"),
        pytest.param(token(nbf=int(time.time()) + 600), id="not valid yet"),
        pytest.param(token(email=None), id="without the claim"),
        pytest.param(token(email=7), id="with a number for an address"),
        pytest.param(token(email="user-1"), id="with an id for an address"),
        pytest.param(token(email_verified=False), id="with an address that nobody verified"),
        pytest.param(unsigned(), id="unsigned"),
        pytest.param("a.b.c", id="no token"),
        pytest.param("ci_" + "a" * 46, id="a key"),
        pytest.param("", id="nothing"),
    ],
)
def test_other_tokens_name_nobody(credentials: str) -> None:
    assert plugin().authenticate(credentials) is None


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def test_a_public_key_verifies_and_cannot_be_used_as_a_secret(
    tmp_path: Path, keys: tuple[bytes, bytes]
) -> None:
    private, public = keys
    path = tmp_path / "key.pem"
    path.write_bytes(public)
    made = plugin(CI_RUNNER_JWT_SECRET="", CI_RUNNER_JWT_PUBLIC_KEY=str(path))
    assert made.authenticate(token(private, "RS256")) == "ada@example.org"
    assert made.authenticate(token(SECRET)) is None


def test_without_settings_nobody_is_known() -> None:
    made = JWTAuth()
    made.configure({})
    assert made.authenticate(token()) is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        pytest.param({"CI_RUNNER_JWT_AUDIENCE": ""}, "AUDIENCE", id="no audience"),
        pytest.param({"CI_RUNNER_JWT_ISSUER": ""}, "ISSUER", id="no issuer"),
        pytest.param({"CI_RUNNER_JWT_CLAIM": "name"}, "CLAIM", id="another claim"),
        pytest.param({"CI_RUNNER_JWT_SECRET": "short"}, "32 bytes", id="a short secret"),
        pytest.param({"CI_RUNNER_JWT_PUBLIC_KEY": "/x"}, "one of them", id="two keys"),
        pytest.param(
            {"CI_RUNNER_JWT_SECRET": "", "CI_RUNNER_JWT_PUBLIC_KEY": "/no/such"},
            "cannot be read",
            id="no file",
        ),
        pytest.param(
            {"CI_RUNNER_JWT_SECRET": "", "CI_RUNNER_JWT_PUBLIC_KEY": __file__}, "public key", id="no PEM file"
        ),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, str], complaint: str) -> None:
    if changes.get("CI_RUNNER_JWT_PUBLIC_KEY") == __file__:
        changes = {**changes, "CI_RUNNER_JWT_PUBLIC_KEY": "/etc/hostname"}
    with pytest.raises(SettingsError, match=complaint):
        plugin(**changes)
