"""`ci-runner admin user` on a real database file: the reference's cases, and what it was too lax about."""

from __future__ import annotations

import argparse
import datetime as dt
import io
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.admin import UUID, Admin, Outcome

from ci_runner.admin.cli import add_parsers, run
from ci_runner.model import api_keys, verdict
from ci_runner.model.job import Job, JobEvent, User, utcnow
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


class TestUsers:
    @pytest.mark.case(27)
    def test_create_shows_the_user(self, admin: Admin) -> None:
        made = admin("user", "create", "--name", "Ann", "--email", "ann@example.org")
        assert (made.code, made.err) == (0, "")
        assert "✓ User created successfully" in made.out
        assert "ann@example.org" in made.out
        [user_id] = UUID.findall(made.out)
        assert [(user["id"], user["email"]) for user in admin("user", "list", "--json").json] == [
            (user_id, "ann@example.org")
        ]

    @pytest.mark.case(28)
    @pytest.mark.parametrize("email", ["ann@example.org", "ANN@example.ORG"])
    def test_a_second_user_with_the_address_is_refused(self, admin: Admin, email: str) -> None:
        admin.user()
        again = admin("user", "create", "--name", "Other", "--email", email)
        assert (again.code, again.out) == (1, "")
        assert again.err == f"Error: User with email {email} already exists\n"

    @pytest.mark.case(29)
    def test_list_shows_all(self, admin: Admin) -> None:
        assert admin("user", "list").out == "No users found.\n"
        admin.user("ann@example.org", "Ann")
        admin("user", "deactivate", admin.user("bob@example.org", "Bob with a name longer than any column"))
        listed = admin("user", "list")
        head, _, bob, ann = listed.out.strip().splitlines()
        assert head.split()[:4] == ["ID", "Name", "Email", "Status"]
        assert re.search(r"Ann +ann@example\.org +Active", ann)
        assert re.search(r"any column +bob@example\.org +Inactive", bob)

    @pytest.mark.case(30)
    def test_list_as_json_has_the_fields(self, admin: Admin) -> None:
        assert admin("user", "list", "--json").json == []
        user_id = admin.user()
        (user,) = admin("user", "list", "--json").json
        created = dt.datetime.fromisoformat(user.pop("created_at").replace("Z", "+00:00"))
        assert dt.timedelta() <= utcnow() - created < dt.timedelta(minutes=5)
        assert user == {
            "id": user_id,
            "name": "Ann",
            "email": "ann@example.org",
            "is_active": True,
            "priority_cap": "normal",
        }

    @pytest.mark.case(31, 32)
    @pytest.mark.parametrize("by", ["id", "email", "email in capitals"])
    def test_get_shows_one(self, admin: Admin, by: str) -> None:
        user_id = admin.user()
        admin.user("bob@example.org")
        how = {"id": [user_id], "email": ["--email", "ann@example.org"]}.get(
            by, ["--email", "ANN@EXAMPLE.ORG"]
        )
        shown = admin("user", "get", *how)
        assert shown.code == 0
        assert "User Details:" in shown.out
        for detail in (user_id, "Ann", "ann@example.org", "Active"):
            assert detail in shown.out
        assert admin("user", "get", *how, "--json").json["id"] == user_id

    @pytest.mark.case(33, 34)
    def test_deactivate_and_activate_switch_the_user(self, admin: Admin) -> None:
        user_id = admin.user()
        for command, status in (("deactivate", "Inactive"), ("activate", "Active"), ("activate", "Active")):
            switched = admin("user", command, user_id)
            assert (switched.code, switched.out) == (0, f"✓ User {command}d: ann@example.org\n")
            assert re.search(rf"Status: +{status}\n", admin("user", "get", user_id).out)

    @pytest.mark.case(42)
    @pytest.mark.parametrize(
        "command", [["get"], ["activate"], ["deactivate"], ["delete", "--yes"], ["set-priority-cap", "high"]]
    )
    def test_an_unknown_user_is_an_error(self, admin: Admin, command: list[str]) -> None:
        name, *rest = command
        unknown = str(uuid.uuid4())
        outcome = admin("user", name, unknown, *rest)
        assert (outcome.code, outcome.out, outcome.err) == (1, "", f"Error: User not found: {unknown}\n")

    def test_get_needs_exactly_one_name(self, admin: Admin) -> None:
        assert admin("user", "get").err == "Error: Must provide either USER_ID or --email\n"
        both = admin("user", "get", "x", "--email", "y@example.org")
        assert (both.code, both.err) == (1, "Error: Provide either USER_ID or --email, not both\n")
        missing = admin("user", "get", "--email", "y@example.org")
        assert (missing.code, missing.err) == (1, "Error: User not found with email: y@example.org\n")

    @pytest.mark.case(44)
    @pytest.mark.parametrize(
        "email", ["nonsense", "a@b", "a b@example.org", "ann@example.org\n", "", "ü@example.org"]
    )
    def test_a_bad_address_is_refused(self, admin: Admin, email: str) -> None:
        outcome = admin("user", "create", "--name", "Ann", "--email", email)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith(f"Error: Invalid email format: {email}")
        assert admin("user", "list", "--json").json == []

    @pytest.mark.parametrize("name", ["", "   ", "x" * 201, "two\nlines", "\x1b[31mred", "zero\u200bwidth"])
    def test_a_bad_name_is_refused(self, admin: Admin, name: str) -> None:
        outcome = admin("user", "create", "--name", name, "--email", "ann@example.org")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith("Error: The name must ")

    def test_the_priority_cap_is_set_and_changed(self, admin: Admin) -> None:
        made = admin(
            "user", "create", "--name", "A", "--email", "a@example.org", "--priority-cap", "low", "--json"
        )
        assert made.json["priority_cap"] == "low"
        changed = admin("user", "set-priority-cap", made.json["id"], "high")
        assert changed.out == "✓ Priority cap of a@example.org: high\n"
        assert admin("user", "get", made.json["id"], "--json").json["priority_cap"] == "high"
        assert admin("user", "set-priority-cap", made.json["id"], "highest").code == 2


class TestDelete:
    def test_everything_of_the_user_goes(self, admin: Admin, store: Store) -> None:
        user_id = admin.user()
        admin.user("bob@example.org", "Bob")
        admin.key()
        for job_id in ("over", "running"):
            store.jobs.create(Job(job_id, user_id=user_id))
        store.events.add("over", JobEvent("log", "secret"))
        store.jobs.finish("over", store.lease.acquire("test"), verdict.ran(0))
        deleted = admin("user", "delete", user_id, "--yes")
        assert deleted.code == 0
        assert deleted.out.splitlines() == [
            "✓ User deleted: ann@example.org",
            "  Jobs deleted:         1",
            "  Jobs being cancelled: 1",
            "  The controller deletes the files in its next pass.",
        ]
        assert [user["name"] for user in admin("user", "list", "--json").json] == ["Bob"]
        assert admin("key", "list", "--json").json == []
        assert store.jobs.get("over") is None
        assert store.get_events("over") == []
        running = store.jobs.get("running")
        assert running is not None
        assert running.cancelled_by == "an administrator"
        assert store.users.deleted() == [user_id]
        admin.user("ann@example.org", "Ann again")

    @pytest.mark.parametrize(
        ("answer", "code"), [("y\n", 0), ("YES\n", 0), ("\n", 1), ("n\n", 1), ("", 1), ("yesterday\n", 1)]
    )
    def test_it_asks_first(self, store: Store, answer: str, code: int) -> None:
        store.users.create(User("ann", "Ann", "ann@example.org", utcnow()))
        outcome = self._delete(store, Terminal(answer))
        assert outcome.code == code
        assert "Delete ann@example.org with all jobs, logs, keys and files, permanently? [y/N]" in outcome.err
        assert (store.users.get("ann") is None) == (code == 0)

    def test_it_does_nothing_where_nobody_can_answer(self, store: Store) -> None:
        store.users.create(User("ann", "Ann", "ann@example.org", utcnow()))
        outcome = self._delete(store, io.StringIO("y\n"))
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "Error: There is no terminal to confirm on: use --yes\n"
        assert store.users.get("ann") is not None

    @staticmethod
    def _delete(store: Store, stdin: io.StringIO) -> Outcome:
        parser = argparse.ArgumentParser()
        add_parsers(parser.add_subparsers())
        out, err = io.StringIO(), io.StringIO()
        code = run(parser.parse_args(["user", "delete", "ann"]), store, out, err, stdin)
        return Outcome(code, out.getvalue(), err.getvalue())


class Terminal(io.StringIO):
    """Somebody who can be asked."""

    def isatty(self) -> bool:
        return True


class TestProgram:
    @pytest.mark.parametrize(
        "arguments", [[], ["user"], ["key"], ["group"], ["user", "create", "--name", "x"]]
    )
    def test_wrong_usage_is_two(self, admin: Admin, arguments: list[str]) -> None:
        outcome = admin(*arguments)
        assert outcome.code == 2
        assert "usage:" in outcome.err

    def test_it_works_beside_a_running_store_and_takes_effect_at_once(
        self, admin: Admin, store: Store
    ) -> None:
        bell = store.doorbell()
        user_id = admin.user()
        key = api_keys.parse(admin.key())
        assert key is not None
        assert bell.rang()
        stored = store.keys.by_hash(key.hash)
        assert stored is not None
        assert stored.is_active
        admin("key", "revoke", key.id)
        admin("user", "deactivate", user_id)
        stored, user = store.keys.by_hash(key.hash), store.users.get(user_id)
        assert stored is not None
        assert user is not None
        assert (stored.is_active, user.is_active) == (False, False)

    @pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
    def test_it_runs_as_a_program_on_any_terminal(self, tmp_path: Path, encoding: str) -> None:
        path = tmp_path / "new" / "runner.db"
        command = [sys.executable, "-X", "dev", "-W", "error", "-m", "ci_runner.admin", "--db", str(path)]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        for arguments in (
            ["user", "create", "--name", "Zoë", "--email", "zoe@example.org"],
            ["user", "list"],
        ):
            done = subprocess.run(
                [*command, *arguments], env=environment, capture_output=True, timeout=60, check=True
            )
            assert done.stderr == b""
            assert "Zo" in done.stdout.decode(encoding)

    def test_a_damaged_database_is_one_line(self, admin: Admin) -> None:
        admin.path.write_bytes(b"nonsense" * 1000)
        outcome = admin("user", "list")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err.startswith("Error: ")
        assert outcome.err.count("\n") == 1


def test_changes_answer_json(admin: Admin) -> None:
    user_id = admin.user()
    key_id = admin.key()[3:11]
    assert admin("key", "revoke", key_id, "--json").json["is_active"] is False
    assert admin("user", "deactivate", user_id, "--json").json["is_active"] is False
    assert admin("user", "activate", user_id, "--json").json["is_active"] is True
    assert admin("user", "set-priority-cap", user_id, "high", "--json").json["priority_cap"] == "high"
    deleted = admin("user", "delete", user_id, "--yes", "--json").json
    assert (deleted["id"], deleted["jobs_deleted"], deleted["jobs_cancelling"]) == (user_id, 0, 0)
    assert admin("user", "list", "--json").json == []
