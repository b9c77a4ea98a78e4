"""``admin job``: jobs of all users, for operators: list, show, cancel, change the priority of waiting ones."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from ci_runner.admin.console import Console
from ci_runner.admin.users import find
from ci_runner.errors import NotFound, RequestError
from ci_runner.model.job import Job, User, format_time
from ci_runner.store import Store
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import PRIORITIES, STATUSES

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_BY: Final = "an administrator"


def add_parser(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``job`` and its commands."""
    job = subparsers.add_parser("job", help="manage jobs of all users", description="Manage jobs.")
    commands = job.add_subparsers(dest="command", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list jobs of all users, newest first")
    listing.add_argument("--status", choices=STATUSES, help="only jobs with this status")
    listing.add_argument("--user-id", help="only jobs of this user")
    listing.add_argument("--email", help="only jobs of this user, by e-mail address")
    listing.add_argument("--limit", type=int, default=50, metavar="NUMBER", help="at most so many [50]")
    listing.set_defaults(admin_command=_list)

    show = commands.add_parser("show", help="show one job")
    show.set_defaults(admin_command=_show)
    cancel = commands.add_parser("cancel", help="cancel a job, waiting or running")
    cancel.set_defaults(admin_command=_cancel)
    priority = commands.add_parser("priority", help="change the priority of a waiting job")
    priority.set_defaults(admin_command=_priority)
    for command in (show, cancel, priority):
        command.add_argument("job_id", metavar="JOB", help="its id, or the beginning of it")
    priority.add_argument("priority", choices=PRIORITIES, metavar="|".join(PRIORITIES))
    for command in (listing, show, cancel, priority):
        command.add_argument("--json", action="store_true", help="print JSON")


def _list(args: argparse.Namespace, store: Store, console: Console) -> None:
    user_id = None
    if args.user_id or args.email:
        user_id = find(store, args.user_id, args.email, "--user-id").id
    jobs = store.list_jobs(user_id, status=args.status, limit=args.limit)
    users = {user.id: user for user in store.list_users()}
    if args.json:
        console.json([_fields(job, users.get(job.user_id or "")) for job in jobs])
    elif not jobs:
        console.line("No jobs found.")
    else:
        rows = [
            (
                job.id[:8],
                _email(job, users.get(job.user_id or "")),
                job.name or "-",
                job.phase if job.status == "running" else job.status,
                job.priority,
                format_time(job.submitted_at) or "-",
            )
            for job in jobs
        ]
        console.table(("Job", "User", "Name", "State", "Priority", "Submitted"), rows)


def _show(args: argparse.Namespace, store: Store, console: Console) -> None:
    _print(args, store, console, _find(store, args.job_id), None)


def _cancel(args: argparse.Namespace, store: Store, console: Console) -> None:
    job = store.jobs.request_cancel(_find(store, args.job_id).id, _BY)
    _print(args, store, console, job, f"✓ Job is being cancelled: {job.id}")


def _priority(args: argparse.Namespace, store: Store, console: Console) -> None:
    job = store.jobs.set_priority(_find(store, args.job_id).id, args.priority)
    _print(args, store, console, job, f"✓ Priority of job {job.id}: {job.priority}")


def _find(store: Store, beginning: str) -> Job:
    """Return the job whose id begins like this; raises `NotFound`, and `RequestError` for several."""
    found = [job for job in store.list_jobs(query=beginning) if job.id.startswith(beginning)]
    if not beginning or not found:
        raise NotFound("Job not found", beginning)
    if len(found) > 1:
        raise RequestError(f"{len(found)} jobs begin with {beginning}; type more of the id")
    return found[0]


def _print(args: argparse.Namespace, store: Store, console: Console, job: Job, done: str | None) -> None:
    fields = _fields(job, store.get_user(job.user_id or ""))
    if args.json:
        console.json(fields)
    elif done is not None:
        console.line(done)
    else:
        for name, value in fields.items():
            if value not in (None, {}, ""):
                console.line(f"  {name + ':':<17} {escaped(str(value))}")


def _fields(job: Job, user: User | None) -> dict[str, object]:
    """Return what its user sees of the job, and what only operators do."""
    return {
        **job.to_summary_dict(),
        "user_id": job.user_id,
        "email": user.email if user is not None else None,
        "priority": job.priority,
        "attempt": job.attempt,
        "cancelled_by": job.cancelled_by,
    }


def _email(job: Job, user: User | None) -> str:
    return user.email if user is not None else job.user_id or "-"
