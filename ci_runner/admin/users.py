"""``admin user``: manage users and the highest priority of their jobs."""

from __future__ import annotations

import argparse
import re
import uuid
from typing import TYPE_CHECKING, Final

from ci_runner.admin.console import Console, label
from ci_runner.errors import Conflict, NotFound, RequestError
from ci_runner.model.job import User, format_time, utcnow
from ci_runner.model.verdict import DEACTIVATED
from ci_runner.store import Store
from ci_runner.store.job_repository import JobRepository
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import PRIORITIES

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_EMAIL: Final = re.compile(r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}")


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``user`` and its commands."""
    user = subparsers.add_parser("user", help="manage users", description="Manage users.")
    commands = user.add_subparsers(dest="command", required=True, metavar="COMMAND")

    create = commands.add_parser("create", help="create a user")
    create.add_argument("--name", required=True, help="display name")
    create.add_argument("--email", required=True, help="e-mail address, unique (case is ignored)")
    create.add_argument(
        "--priority-cap", choices=PRIORITIES, default="normal", help="highest priority that jobs may request"
    )
    create.add_argument("--json", action="store_true", help="print JSON")
    create.set_defaults(admin_command=_create)

    listing = commands.add_parser("list", help="list all users, newest first")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(admin_command=_list)

    get = commands.add_parser("get", help="show one user")
    get.add_argument("user_id", nargs="?", metavar="USER_ID")
    get.add_argument("--email", help="find the user by e-mail address instead")
    get.add_argument("--json", action="store_true", help="print JSON")
    get.set_defaults(admin_command=_get)

    for name, command, text in (
        ("activate", _activate, "allow the user and its keys again"),
        ("deactivate", _deactivate, "block the user and all its keys, at once; cancel waiting jobs"),
    ):
        switch = commands.add_parser(name, help=text)
        switch.add_argument("user_id", metavar="USER_ID")
        switch.add_argument("--json", action="store_true", help="print JSON")
        switch.set_defaults(admin_command=command)
        if command is _deactivate:
            switch.add_argument(
                "--cancel", action="store_true", help="cancel running jobs, too, not only waiting ones"
            )

    cap = commands.add_parser(
        "set-priority-cap", help="change the highest priority that the user's jobs may request"
    )
    cap.add_argument("user_id", metavar="USER_ID")
    cap.add_argument("priority_cap", choices=PRIORITIES, metavar="|".join(PRIORITIES))
    cap.add_argument("--json", action="store_true", help="print JSON")
    cap.set_defaults(admin_command=_set_cap)

    delete = commands.add_parser("delete", help="delete the user with all jobs, keys and files")
    delete.add_argument("user_id", metavar="USER_ID")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.add_argument("--json", action="store_true", help="print JSON")
    delete.set_defaults(admin_command=_delete)


def find(repository: JobRepository, user_id: str | None, email: str | None, option: str) -> User:
    """Return the one user given by id (option `option`) or by e-mail address.

    Raises `RequestError` if none or both are given, or the user is unknown.
    """
    if not user_id and not email:
        raise RequestError(f"Must provide either {option} or --email")
    if user_id and email:
        raise RequestError(f"Provide either {option} or --email, not both")
    user = repository.get_user_by_email(email) if email else repository.get_user(user_id or "")
    if user is None:
        raise NotFound("User not found with email", email) if email else NotFound("User not found", user_id)
    return user


def _create(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    if _EMAIL.fullmatch(args.email) is None:
        raise RequestError(f"Invalid email format: {args.email}")
    user = User(str(uuid.uuid4()), label(args.name, "name"), args.email, utcnow(), True, args.priority_cap)
    repository.create_user(user)
    if args.json:
        console.json(user.to_dict())
        return
    console.line("✓ User created successfully")
    console.line(f"  ID:    {user.id}")
    console.line(f"  Name:  {escaped(user.name)}")
    console.line(f"  Email: {escaped(user.email)}")


def _list(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    users = repository.list_users()
    if args.json:
        console.json([user.to_dict() for user in users])
    elif not users:
        console.line("No users found.")
    else:
        rows = [(user.id, user.name, user.email, _status(user), user.priority_cap) for user in users]
        console.table(("ID", "Name", "Email", "Status", "Priority cap"), rows)


def _get(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    user = find(repository, args.user_id, args.email, "USER_ID")
    if args.json:
        console.json(user.to_dict())
        return
    console.line("\nUser Details:")
    console.line(f"  ID:           {user.id}")
    console.line(f"  Name:         {escaped(user.name)}")
    console.line(f"  Email:        {escaped(user.email)}")
    console.line(f"  Created:      {format_time(user.created_at)}")
    console.line(f"  Status:       {_status(user)}")
    console.line(f"  Priority cap: {user.priority_cap}")
    console.line()


def _activate(args: argparse.Namespace, repository: JobRepository, console: Console) -> None:
    user = repository.update_user_active_status(args.user_id, True)
    _show_change(args, console, user, f"User activated: {user.email}")


def _deactivate(args: argparse.Namespace, store: Store, console: Console) -> None:
    user = store.update_user_active_status(args.user_id, False)
    if args.cancel:
        store.users.cancel_all(user.id, DEACTIVATED)
    _show_change(args, console, user, f"User deactivated: {user.email}")


def _set_cap(args: argparse.Namespace, store: Store, console: Console) -> None:
    user = store.users.set_cap(args.user_id, args.priority_cap)
    _show_change(args, console, user, f"Priority cap of {user.email}: {user.priority_cap}")


def _show_change(args: argparse.Namespace, console: Console, user: User, words: str) -> None:
    if args.json:
        console.json(user.to_dict())
    else:
        console.line(f"✓ {words}")


def _delete(args: argparse.Namespace, store: Store, console: Console) -> None:
    user = find(store, args.user_id, None, "USER_ID")
    if not args.yes:
        console.confirm(f"Delete {user.email} with all jobs, logs, keys and files, permanently?")
    try:
        deletion = store.users.delete(user.id)
    except NotFound as error:  # deleted while the question was open
        raise Conflict(f"User was deleted meanwhile: {user.email}") from error
    if args.json:
        counts = {"jobs_deleted": len(deletion.deleted), "jobs_cancelling": deletion.cancelling}
        console.json({**user.to_dict(), **counts})
        return
    console.line(f"✓ User deleted: {user.email}")
    console.line(f"  Jobs deleted:         {len(deletion.deleted)}")
    if deletion.cancelling:
        console.line(f"  Jobs being cancelled: {deletion.cancelling}")
    console.line("  The controller deletes the files in its next pass.")


def _status(user: User) -> str:
    return "Active" if user.is_active else "Inactive"
