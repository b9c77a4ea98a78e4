"""The table of files that look like secrets: a positive and a negative case each."""

from __future__ import annotations

import pytest

from pytest_remote_ci.workspace import secret_files

BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"


def pem(kind: str = "", newline: str = "\n", body: str = BODY) -> str:
    """A PEM block; put together here, so that this file holds none itself."""
    begin = "-----BEGIN " + kind + "PRIVATE " + "KEY-----"
    return f"{begin}{newline}{body}{begin.replace('BEGIN', 'END')}{newline}"


#: A real key of the runner in shape and checksum; it opens nothing.
RUNNER_KEY = "_".join(("ci", "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcd1R8fVc"))

#: (row of the table, path, content of a secret, path, content of what is none)
CASES = [
    ("a key of the runner", "notes.txt", f"key={RUNNER_KEY}\n", "notes.txt", f"key={RUNNER_KEY[:-1]}A\n"),
    ("an SSH private key", "keys/id_rsa", "", "keys/id_rsa.pub", "ssh-rsa AAAA"),
    ("a private key", "server.pem", pem("RSA "), "cert.pem", "-----BEGIN CERTIFICATE-----\n" + BODY),
    (
        "a PGP private key",
        "key.asc",
        "-----BEGIN PGP PRIVATE KEY " + "BLOCK-----\n\nlQ",
        "key.asc",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nlQ",
    ),
    (
        "a PuTTY private key",
        "key.ppk",
        "PuTTY-User-Key-" + "File-3: ssh-ed25519\n",
        "readme.txt",
        "A PuTTY-User-Key-" + "File-3: line",
    ),
    (
        "an age private key",
        "age.txt",
        "AGE-SECRET-" + "KEY-1" + "Q" * 58,
        "age.txt",
        "AGE-SECRET-" + "KEY-1" + "Q" * 10,
    ),
    ("a key store", "client.p12", "\x30\x82\x01", "client.p12", "text"),
    (
        "stored passwords",
        ".netrc",
        "machine example.com login me password hunter2",
        ".netrc",
        "machine example.com login me",
    ),
    (
        "stored passwords",
        ".pypirc",
        "[pypi]\npassword = pypi-AgE\n",
        ".pypirc",
        "[pypi]\nusername = __token__\n",
    ),
    ("stored passwords", ".git-credentials", "https://me:hunter2@example.com\n", ".git-credentials", ""),
    ("secret variables", "deploy/.env", "# mine\nexport TOKEN=abc\n", "deploy/.env", "# TOKEN=abc\nTOKEN=\n"),
    (
        "a package registry's token",
        ".npmrc",
        "//registry.example.com/:_authToken=abcdef",
        ".npmrc",
        "//registry.example.com/:_authToken=${NPM_TOKEN}",
    ),
    (
        "credentials of AWS",
        ".aws/credentials",
        "[default]\naws_secret_access_key = " + "a" * 40,
        "tests/credentials",
        "[default]\naws_secret_access_key = testing",
    ),
    (
        "credentials of Google Cloud",
        "application_default_credentials.json",
        '{"refresh_token": "1//' + "a" * 30 + '"}',
        "token.json",
        '{"refresh_token": "fake"}',
    ),
    ("credentials of Azure", ".azure/accessTokens.json", "[]", ".azure/clouds.json", "[]"),
    (
        "credentials of Kubernetes",
        ".kube/config",
        "users:\n- user:\n    token: " + "a" * 30,
        ".kube/config",
        "clusters: []\nusers:\n- user:\n    token: x",
    ),
    (
        "credentials of a container registry",
        ".docker/config.json",
        '{"auths": {"x": {"auth": "bWU6aHVudGVyMg=="}}}',
        "config.json",
        '{"auth": {"enabled": true}}',
    ),
]


@pytest.mark.parametrize(("what", "secret", "secret_content", "other", "other_content"), CASES)
def test_a_secret_is_found_and_what_resembles_it_is_not(
    what: str, secret: str, secret_content: str, other: str, other_content: str
) -> None:
    assert secret_files.find(secret, secret_content.encode("latin-1")) == what
    assert secret_files.find(other, other_content.encode("latin-1")) is None


def test_every_row_of_the_table_has_its_case() -> None:
    assert [case[0] for case in CASES] == [pattern.what for pattern in secret_files.SECRET_PATTERNS]
    for (_, path, content, _, _), pattern in zip(CASES, secret_files.SECRET_PATTERNS, strict=True):
        assert pattern.matches(path, content.encode("latin-1"))


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("a.key", pem()),
        ("a.key", pem("ENCRYPTED ")),
        ("a.key", pem("OPENSSH ")),
        ("a.key", pem("EC ", newline="\r\n")),
        ("a.key", "subject=/CN=x\n\n" + pem()),
        ("a.key", pem("RSA ", body="Proc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n" + BODY)),
        ("account.json", '{"private_key": "' + pem(newline="\\n", body=BODY.replace("\n", "\\n")) + '"}'),
        ("values.yaml", "key: |\n  " + pem(newline="\n  ")),
        (".env", 'KEY="' + pem(newline="\\n") + '"'),
        (".ci/config", f"api_key={RUNNER_KEY}"),
        ("tests/test_x.py", f"KEY = '{RUNNER_KEY}'"),
        ("ID_RSA", ""),
        ("deep/er/.netrc", "default login x password y"),
    ],
)
def test_secrets_are_found_in_their_many_forms(path: str, content: str) -> None:
    assert secret_files.find(path, content.encode()) is not None


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("tests/test_keys.py", f'KEY = """{pem()}"""'),
        ("README.md", pem()),
        ("check.sh", "grep -r -e '-----BEGIN RSA PRIVATE " + "KEY-----' ."),
        ("template.pem", pem(body="...\n")),
        ("a.txt", "x" + RUNNER_KEY),
        ("a.txt", RUNNER_KEY + "x"),
        (".env.test", "DATABASE_URL=sqlite://\n"),
        ("test_netrc.py", "password hunter2"),
        ("netrc", "machine x password y"),
        ("credentials.py", "aws_secret_access_key = testing"),
        ("empty", ""),
    ],
)
def test_what_only_mentions_a_secret_is_none(path: str, content: str) -> None:
    assert secret_files.find(path, content.encode()) is None
