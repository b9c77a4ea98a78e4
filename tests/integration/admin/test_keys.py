"""`ci-runner admin key` on a real database file: the reference's cases, and what it was too lax about."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.admin import KEY, Admin

from ci_runner.model import api_keys
from ci_runner.store import Store


@pytest.fixture
def admin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Admin:
    return Admin(tmp_path / "runner.db", capsys)


@pytest.fixture
def store(admin: Admin) -> Iterator[Store]:
    """The same database as the running runner has it open."""
    opened = Store.open(admin.path)
    yield opened
    opened.close()


class TestKeys:
    @pytest.mark.case(35)
    def test_create_shows_the_key_once_with_a_warning(self, admin: Admin, store: Store) -> None:
        user_id = admin.user()
        made = admin("key", "create", "--user-id", user_id, "--name", "laptop")
        assert (made.code, made.err) == (0, "")
        assert "✓ API key created successfully" in made.out
        assert "This is the only time you'll see this key!" in made.out
        for detail in ("laptop", "ann@example.org"):
            assert detail in made.out
        (text,) = KEY.findall(made.out)
        key = api_keys.parse(text)
        assert key is not None
        stored = store.keys.by_hash(key.hash)
        assert stored is not None
        assert (stored.id, stored.user_id, stored.name) == (key.id, user_id, "laptop")
        assert (
            text.encode() not in admin.path.read_bytes() + admin.path.with_name("runner.db-wal").read_bytes()
        )

    @pytest.mark.case(36)
    def test_create_by_email(self, admin: Admin, store: Store) -> None:
        users = {name: admin.user(f"{name}@example.org") for name in ("bob", "ann", "eve")}
        text = admin.key("Ann@Example.org", "desktop")
        key = api_keys.parse(text)
        assert key is not None
        stored = store.keys.by_hash(api_keys.hash_key(text))
        assert stored is not None
        assert (stored.id, stored.user_id, stored.name) == (key.id, users["ann"], "desktop")
        assert stored.is_active
        assert [admin("key", "list", "--user-id", users[name], "--json").json for name in ("bob", "eve")] == [
            [],
            [],
        ]

    @pytest.mark.case(37)
    def test_list_shows_names_and_no_key(self, admin: Admin) -> None:
        admin.user()
        assert admin("key", "list").out == "No API keys found.\n"
        texts = [admin.key(name=name) for name in ("laptop", "desktop")]
        listed = admin("key", "list", "--email", "ann@example.org").out
        assert "ci_" not in listed
        assert [line.split() for line in listed.strip().splitlines()[2:]] == [
            [texts[1][3:11], "desktop", "ann@example.org", "Active"],
            [texts[0][3:11], "laptop", "ann@example.org", "Active"],
        ]
        assert not [text for text in texts if text[11:20] in listed]

    @pytest.mark.case(38)
    def test_list_as_json_has_no_hash(self, admin: Admin) -> None:
        user_id = admin.user()
        text = admin.key()
        listed = admin("key", "list", "--json")
        (key,) = listed.json
        assert key.keys() == {
            "id",
            "user_id",
            "name",
            "created_at",
            "last_used_at",
            "is_active",
            "expires_at",
        }
        assert (key["id"], key["user_id"], key["is_active"]) == (text[3:11], user_id, True)
        assert api_keys.hash_key(text) not in listed.out
        assert "ci_" not in listed.out

    @pytest.mark.case(39)
    def test_revoke_makes_a_key_void(self, admin: Admin) -> None:
        admin.user()
        key_id = admin.key()[3:11]
        for _ in range(2):
            revoked = admin("key", "revoke", key_id)
            assert (revoked.code, revoked.out) == (0, "✓ API key revoked: laptop\n")
        assert admin("key", "list", "--json").json[0]["is_active"] is False
        assert "Revoked" in admin("key", "list").out

    @pytest.mark.case(40)
    def test_list_of_all_shows_every_owner(self, admin: Admin) -> None:
        for name in ("ann", "bob"):
            admin.user(f"{name}@example.org")
            admin.key(f"{name}@example.org")
        listed = admin("key", "list").out
        assert "ann@example.org" in listed
        assert "bob@example.org" in listed
        assert "bob@example.org" not in admin("key", "list", "--email", "ann@example.org").out

    @pytest.mark.case(41)
    def test_a_key_for_an_unknown_user_is_refused(self, admin: Admin) -> None:
        unknown = str(uuid.uuid4())
        by_id = admin("key", "create", "--user-id", unknown, "--name", "x")
        assert (by_id.code, by_id.out, by_id.err) == (1, "", f"Error: User not found: {unknown}\n")
        by_email = admin("key", "create", "--email", "x@example.org", "--name", "x")
        assert (by_email.code, by_email.err) == (1, "Error: User not found with email: x@example.org\n")

    @pytest.mark.case(43)
    def test_an_unknown_key_cannot_be_revoked(self, admin: Admin) -> None:
        outcome = admin("key", "revoke", "nothing")
        assert (outcome.code, outcome.out, outcome.err) == (1, "", "Error: API key not found: nothing\n")

    def test_create_needs_exactly_one_owner(self, admin: Admin) -> None:
        neither = admin("key", "create", "--name", "x")
        assert (neither.code, neither.err) == (1, "Error: Must provide either --user-id or --email\n")
        both = admin("key", "create", "--name", "x", "--user-id", "x", "--email", "x@example.org")
        assert (both.code, both.err) == (1, "Error: Provide either --user-id or --email, not both\n")

    def test_list_filters_by_one_owner(self, admin: Admin) -> None:
        assert admin("key", "list", "--email", "x@example.org").code == 1
        unknown = admin("key", "list", "--user-id", "nobody")
        assert (unknown.code, unknown.out) == (0, "No API keys found.\n")
        # The reference silently prefers the address.
        assert admin("key", "list", "--user-id", "x", "--email", "x@example.org").code == 1

    def test_an_inactive_user_gets_no_key(self, admin: Admin) -> None:
        admin("user", "deactivate", admin.user())
        outcome = admin("key", "create", "--email", "ann@example.org", "--name", "x")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "Error: User is inactive: ann@example.org; activate the user first\n"

    def test_a_key_needs_a_name(self, admin: Admin) -> None:
        admin.user()
        assert admin("key", "create", "--email", "ann@example.org", "--name", " ").code == 1
        assert admin("key", "create", "--email", "ann@example.org").code == 2

    def test_a_key_may_expire(self, admin: Admin, store: Store) -> None:
        admin.user()
        made = admin(
            "key", "create", "--email", "ann@example.org", "--name", "x", "--expires", "1.5", "--json"
        ).json
        assert api_keys.parse(made["key"])
        key = store.keys.get(made["id"])
        assert key is not None
        assert key.expires_at == key.created_at + dt.timedelta(days=1.5)
        admin("key", "create", "--email", "ann@example.org", "--name", "short", "--expires", "0.0000000001")
        assert re.search(r"short +ann@example\.org +Expired", admin("key", "list").out)

    def test_a_key_whose_name_is_taken_is_made_again(
        self, admin: Admin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        admin.user()
        taken = api_keys.parse(admin.key())
        fresh = api_keys.generate()
        made = iter([taken, taken, fresh, *[fresh] * 9])
        monkeypatch.setattr(api_keys, "generate", lambda: next(made))
        assert admin.key(name="second") == fresh.text
        outcome = admin("key", "create", "--email", "ann@example.org", "--name", "third")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == f"Error: API key {fresh.id} already exists\n"

    @pytest.mark.parametrize("days", ["0", "-1", "soon", "nan", "1e9"])
    def test_a_bad_expiry_is_wrong_usage(self, admin: Admin, days: str) -> None:
        admin.user()
        assert (
            admin("key", "create", "--email", "ann@example.org", "--name", "x", f"--expires={days}").code == 2
        )
