"""Formats of pipeline reports: text in the reference system's words, JSON, JUnit XML, one HTML page.

Everything is a pure function of the runner's answer. The text of a report of unknown shape is its JSON.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.answers import (
    AnswerError,
    Execution,
    JobReport,
    PipelineReport,
    Report,
    StageReport,
    as_list,
    report_of,
)
from pytest_remote_ci.wire.control_characters import escaped_all, escaped_json

FORMATS: Final = ("text", "json", "junit", "html")
_RULE: Final = "-" * 40


def rendered(answer: object, form: str) -> str:
    """Return the report in one of `FORMATS`. A report of unknown shape is JSON instead of text.

    Raises `AnswerError` if its shape is unknown to the other formats.
    """
    if form == "junit":
        return junit(reports_in(escaped_all(answer)))
    if form == "html":
        return page(reports_in(escaped_all(answer)))
    if form == "text":
        with suppress(AnswerError):
            return text(reports_in(escaped_all(answer)))
    return escaped_json(_without_null_names(answer), indent=2) + "\n"


def reports_in(answer: object) -> list[Report]:
    """Return the report, or the reports in a list. Raises `AnswerError`."""
    return as_list(answer, report_of) if isinstance(answer, list) else [report_of(answer)]


def report_time(value: str | None, missing: str = "N/A") -> str:
    """Return a report's time in local time; anything that is not a time is returned as text."""
    return formats.time(value, value or missing)


def text(reports: Sequence[Report]) -> str:
    """Return labelled lines. Several reports are separated by a blank line and dashes."""
    return f"\n{_RULE}\n".join("".join(f"{line}\n" for line in _lines(item)) for item in reports)


def _lines(item: Report) -> Iterator[str]:
    if isinstance(item, PipelineReport):
        yield from _pipeline(item)
    elif isinstance(item, StageReport):
        yield from _stage(item, "")
    else:
        yield from _job(item, "")


def _pipeline(item: PipelineReport) -> Iterator[str]:
    yield f"Pipeline ID: {item.id}"
    yield f"Pipeline Name: {item.name}"
    yield f"Run Number: {item.run_number}"
    yield f"Commit Hash: {item.commit_hash or 'N/A'}"
    yield f"Status: {item.status}"
    yield from _times(item, "")
    if item.reason:
        yield f"Reason: {item.reason}"
    if item.stages:
        yield "Stages:"
    for stage in item.stages:
        yield from _stage(stage, "  ")


def _stage(item: StageReport, indent: str) -> Iterator[str]:
    yield f"{indent}Stage ID: {item.id}"
    yield f"{indent}Stage Name: {item.name}"
    yield f"{indent}Status: {item.status}"
    if item.pipeline_name:
        yield f"{indent}Pipeline Name: {item.pipeline_name}"
    yield from _times(item, indent)
    if item.jobs:
        yield f"{indent}Jobs:"
    for job in item.jobs:
        yield from _job(job, indent + "  ")


def _job(item: JobReport, indent: str) -> Iterator[str]:
    yield f"{indent}Job Name: {item.name}"
    yield f"{indent}Run Number: {item.run_number}"
    yield f"{indent}Stage Name: {item.stage_name}"
    yield f"{indent}Commit Hash: {item.commit_hash or 'N/A'}"
    if not item.executions:
        yield f"{indent}Status: {item.status}{_because(item)}"
        return
    yield f"{indent}Executions:"
    for execution in item.executions:
        yield f"{indent}  Execution ID: {execution.id}"
        yield f"{indent}  Status: {execution.status}{_because(execution)}"
        yield f"{indent}  Allow Failure: {'true' if execution.allow_failure else 'false'}"
        yield from _times(execution, indent + "  ")


def _because(item: JobReport | Execution) -> str:
    return f" ({item.reason})" if item.reason else ""


def _times(item: PipelineReport | StageReport | Execution, indent: str) -> Iterator[str]:
    yield f"{indent}Start Time: {report_time(item.start_time)}"
    yield f"{indent}Completion Time: {report_time(item.completion_time, 'In Progress')}"


def junit(reports: Sequence[Report]) -> str:
    """Return JUnit XML for a CI system: one suite per stage, one case per job."""
    suites = []
    for name, jobs in _suites(reports):
        cases = [_case(name, job) for job in jobs]
        failures = sum("<failure" in case for case in cases)
        skipped = sum("<skipped" in case for case in cases)
        suites.append(
            f'  <testsuite name={quoteattr(name)} tests="{len(cases)}" failures="{failures}" errors="0" '
            f'skipped="{skipped}">\n' + "".join(cases) + "  </testsuite>\n"
        )
    return '<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n' + "".join(suites) + "</testsuites>\n"


def _suites(reports: Sequence[Report]) -> Iterator[tuple[str, list[JobReport]]]:
    for item in reports:
        if isinstance(item, PipelineReport):
            for stage in item.stages:
                yield f"{item.name}#{item.run_number} {stage.name}", stage.jobs
        elif isinstance(item, StageReport):
            yield f"{item.pipeline_name}#{item.run_number} {item.name}", item.jobs
        else:
            yield f"{item.pipeline_name}#{item.run_number} {item.stage_name}", [item]


def _case(suite: str, job: JobReport) -> str:
    newest = job.executions[0] if job.executions else None
    status, reason = job.status, (newest or job).reason
    head = f'    <testcase classname={quoteattr(suite)} name={quoteattr(job.name)} time="{_seconds(newest)}"'
    if newest is not None and status == "FAILED":
        why = reason or f"exit code {newest.exit_code}"
        if newest.allow_failure:
            return (
                f"{head}>\n      <skipped message={quoteattr(f'failed, allowed: {why}')}/>\n    </testcase>\n"
            )
        return f"{head}>\n      <failure message={quoteattr(why)}>{escape(why)}</failure>\n    </testcase>\n"
    if status == "SUCCESS":
        return f"{head}/>\n"
    return f"{head}>\n      <skipped message={quoteattr(reason or status)}/>\n    </testcase>\n"


def _seconds(execution: Execution | None) -> str:
    if execution is None:
        return "0"
    began, ended = map(formats.parse_time, (execution.start_time, execution.completion_time))
    return "0" if began is None or ended is None else f"{(ended - began).total_seconds():.3f}"


def page(reports: Sequence[Report]) -> str:
    """Return a self-contained HTML page: no scripts, no external resources."""
    rows = []
    for suite, jobs in _suites(reports):
        for job in jobs:
            newest = job.executions[0] if job.executions else None
            cells = [
                suite,
                job.name,
                job.status,
                report_time(None if newest is None else newest.start_time),
                _seconds(newest),
                (newest or job).reason,
            ]
            marked = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows.append(f'<tr class="{html.escape(job.status)}">{marked}</tr>')
    heads = "".join(
        f"<th>{name}</th>" for name in ("Run and stage", "Job", "Status", "Start", "Seconds", "Reason")
    )
    style = "body{font:14px sans-serif}td,th{padding:.2em .8em;text-align:left}.FAILED{color:#b00}.SUCCESS{color:#070}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Pipelines</title><style>{style}</style>'
        f"<table><tr>{heads}</tr>\n" + "\n".join(rows) + "</table></html>\n"
    )


def _without_null_names(value: object) -> object:
    if isinstance(value, list):
        return [_without_null_names(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _without_null_names(item)
            for key, item in value.items()
            if not (key == "pipelineName" and item is None)
        }
    return value
