"""``admin key``: a key is shown only once, when it is made; lists show only the ids of keys."""

from __future__ import annotations

import argparse
import datetime as dt
from typing import TYPE_CHECKING, Final

from ci_runner.admin.console import Console, label
from ci_runner.admin.users import find
from ci_runner.errors import Conflict, RequestError
from ci_runner.model import api_keys
from ci_runner.model.job import APIKey, User, format_time, utcnow
from ci_runner.store.job_repository import JobRepository
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_UNNAMED: Final = "(unnamed)"
#: Two new keys share the eight characters of their ids once in many billions; then another one is made.
_ATTEMPTS: Final = 3


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``key`` and its commands."""
    key = subparsers.add_parser("key", help="manage API keys", description="Manage API keys.")
    commands = key.add_subparsers(dest="command", required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="make a key for a user and show it once")
    create.add_argument("--user-id", help="owner of the key")
    create.add_argument("--email", help="owner of the key, by e-mail address")
    create.add_argument("--name", required=True, help="name of the key, such as laptop")
    create.add_argument("--expires", type=_days, metavar="DAYS", help="days until the key expires")
    create.add_argument("--json", action="store_true", help="print JSON")
    create.set_defaults(admin_command=_create)

    listing = commands.add_parser("list", help="list keys, newest first")
    listing.add_argument("--user-id", help="only keys of this user")
    listing.add_argument("--email", help="only keys of this user, by e-mail address")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(admin_command=_list)

    revoke = commands.add_parser("revoke", help="revoke a key, immediately and permanently")
    revoke.add_argument("key_id", metavar="KEY_ID", help="as in `key list`")
    revoke.add_argument("--json", action="store_true", help="print JSON")
    revoke.set_defaults(admin_command=_revoke)


def _create(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    user = find(repository, args.user_id, args.email, "--user-id")
    name = label(args.name, "name")
    if not user.is_active:
        raise Conflict(f"User is inactive: {user.email}; activate the user first")
    now = utcnow()
    secret, key = _store_new(repository, user, name, now, now + args.expires if args.expires else None)
    if args.json:
        console.json({**key.to_dict(), "key": secret.text})
        return
    console.line("\n✓ API key created successfully")
    console.line(f"\n  API Key: {secret.text}")
    console.line(f"  ID:      {key.id}")
    console.line(f"  Name:    {escaped(name)}")
    console.line(f"  User:    {escaped(user.email)}")
    if key.expires_at:
        console.line(f"  Expires: {format_time(key.expires_at)}")
    console.line("\n  ⚠️  IMPORTANT: This is the only time you'll see this key!")
    console.line("     Save it securely now.\n")


def _store_new(
    repository: JobRepository, user: User, name: str, now: dt.datetime, expires_at: dt.datetime | None
) -> tuple[api_keys.Key, APIKey]:
    for left in reversed(range(_ATTEMPTS)):
        secret = api_keys.generate()
        key = APIKey(secret.id, user.id, secret.hash, name, now, expires_at=expires_at)
        try:
            return secret, repository.create_api_key(key)
        except Conflict:
            if not left:
                raise
    raise AssertionError("the last attempt returns or raises")


def _list(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    if args.user_id and args.email:
        raise RequestError("Provide either --user-id or --email, not both")
    user_id = find(repository, None, args.email, "--user-id").id if args.email else args.user_id
    keys = repository.list_api_keys(user_id)
    if args.json:
        console.json([key.to_dict() for key in keys])
    elif not keys:
        console.line("No API keys found.")
    else:
        emails = {user.id: user.email for user in repository.list_users()}
        now = utcnow()
        rows = [
            (key.id, key.name or _UNNAMED, emails.get(key.user_id, "?"), _status(key, now)) for key in keys
        ]
        console.table(("ID", "Name", "User", "Status"), rows)


def _revoke(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    key = repository.revoke_api_key(args.key_id)
    if args.json:
        console.json(key.to_dict())
    else:
        console.line(f"✓ API key revoked: {key.name or _UNNAMED}")


def _status(key: APIKey, now: dt.datetime) -> str:
    if not key.is_active:
        return "Revoked"
    return "Expired" if key.expires_at is not None and key.expires_at <= now else "Active"


def _days(text: str) -> dt.timedelta:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days above 0 and up to 36500")
    return dt.timedelta(days=days)
