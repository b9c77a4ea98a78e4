"""The one flow of everything that is submitted: collect, check, send, follow.

`pytest --remote-ci`, `pytest --remote-ci-pipeline`, `remote-ci submit` and `remote-ci pipeline run` differ in where
the parts come from (a `Submission`), in what is sent (a `Remote`: the tests of one job, or a run of a pipeline), and
in how it is followed: as text, or replayed in the local session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, RunnerUnreachable
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.output import print_json, print_line

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.session.remote import Remote
    from pytest_remote_ci.session.submission import Submission
    from pytest_remote_ci.terminal.display import Display
    from pytest_remote_ci.workspace.collect import Workspace

R = TypeVar("R", bound="Remote")
#: What following returns: an exit code, or None if the local session goes on and has its own.
Code = TypeVar("Code", int, "int | None")


def held_interrupts(display: Display) -> Interrupts:
    """Return the handling of Ctrl-C for a submission, which prints when an interrupt has to wait for an answer."""
    held = "Cancelling the submission … (press Ctrl-C again to leave at once)"
    return Interrupts(on_held=lambda: display.print_message(held))


def submit(
    parts: Submission,
    connect: Callable[[Client], R],
    follow: Callable[[R], Code],
    *,
    on_cancelled: Callable[[], None] = lambda: None,
) -> Code:
    """Submit and follow what `connect` makes for a client; return the exit code, or what `follow` returns.

    `on_cancelled` is called after Ctrl-C has cancelled it.
    """
    try:
        workspace = parts.workspace()
        if parts.is_dry_run:
            _print_files(workspace, as_json=parts.as_json)
            return exit_codes.OK
        parts.check(workspace)
        for is_last_chance in (False, True):
            remote = connect(parts.client())
            try:
                return attend(
                    remote, partial(_send_and_follow, parts, remote, workspace, follow), on_cancelled
                )
            except RunnerUnreachable:
                # An idle embedded runner can have ended between the check and the submission.
                if is_last_chance or parts.settings.url is not None or remote.remote_id is not None:
                    raise
    except KeyboardInterrupt:
        parts.display.print_message("Interrupted: nothing was left on the runner.")
        return exit_codes.INTERRUPTED
    raise AssertionError("the second attempt returns or raises")


def _send_and_follow(parts: Submission, remote: R, workspace: Workspace, follow: Callable[[R], Code]) -> Code:
    remote.submit(workspace, again=parts.workspace)
    return announce(remote, follow, parts.display, is_async=parts.is_async, as_json=parts.as_json)


def _print_files(workspace: Workspace, *, as_json: bool) -> None:
    """Print the files that would be sent, largest first."""
    if as_json:
        files = [{"path": file.path, "size": file.size} for file in workspace.by_size()]
        print_json({"files": files, "size": workspace.size})
        return
    for text in workspace.listing():
        print_line(text)


def attend(
    remote: Remote, action: Callable[[], Code], on_cancelled: Callable[[], None] = lambda: None
) -> Code:
    """Return the result of `action`; cancel what was submitted if the developer leaves meanwhile."""
    try:
        return action()
    except KeyboardInterrupt:
        if remote.remote_id is None:
            raise
        remote.cancel()
        on_cancelled()
        return exit_codes.INTERRUPTED
    except ClientError:
        raise
    except BaseException:  # output closed or a plugin failed: the result would not be seen
        remote.abandon()
        raise


def announce(
    remote: R, follow: Callable[[R], Code], display: Display, *, is_async: bool, as_json: bool = False
) -> Code:
    """Print what was submitted, and follow it unless `is_async`; return the exit code, or what `follow` returns."""
    if is_async:
        if as_json:
            print_json(remote.summary().fields)
        else:
            print_line(remote.receipt)
        return exit_codes.OK
    display.print_message(remote.title)
    return follow(remote)
