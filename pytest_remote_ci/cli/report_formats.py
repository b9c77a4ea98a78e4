"""Formats of pipeline reports: text in the reference system's words, JSON, JUnit XML, one HTML page.

Everything is a pure function of the runner's JSON. The text of a report of unknown shape is its JSON.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped_all, escaped_json

FORMATS: Final = ("text", "json", "junit", "html")
_RULE: Final = "-" * 40


def rendered(report: Any, form: str) -> str:
    """Return the report in one of `FORMATS`. A report of unknown shape is JSON instead of text."""
    if form == "text" and _is_known(report):
        return text(escaped_all(report))
    if form == "junit":
        return junit(escaped_all(report))
    if form == "html":
        return page(escaped_all(report))
    return escaped_json(_without_null_names(report), indent=2) + "\n"


def report_time(value: object, missing: str = "N/A") -> str:
    """Return a report's time in local time; anything that is not a time is returned as text."""
    return formats.time(value, missing if value in (None, "") else str(value))


def text(report: Any) -> str:
    """Return labelled lines. Items of a list are separated by a blank line and dashes."""
    if isinstance(report, list):
        return f"\n{_RULE}\n".join("".join(f"{line}\n" for line in _lines(item)) for item in report)
    return "".join(f"{line}\n" for line in _lines(report))


def _lines(item: Mapping[str, Any]) -> Iterator[str]:
    if "stages" in item:
        yield from _pipeline(item)
    elif "jobs" in item:
        yield from _stage(item, "")
    else:
        yield from _job(item, "")


def _pipeline(item: Mapping[str, Any]) -> Iterator[str]:
    yield f"Pipeline ID: {item.get('id')}"
    yield f"Pipeline Name: {item.get('name')}"
    yield f"Run Number: {item.get('runNumber')}"
    yield f"Commit Hash: {item.get('commitHash') or 'N/A'}"
    yield f"Status: {item.get('status')}"
    yield from _times(item, "")
    if item.get("reason"):
        yield f"Reason: {item['reason']}"
    if item["stages"]:
        yield "Stages:"
    for stage in item["stages"]:
        yield from _stage(stage, "  ")


def _stage(item: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}Stage ID: {item.get('id')}"
    yield f"{indent}Stage Name: {item.get('name')}"
    yield f"{indent}Status: {item.get('status')}"
    if item.get("pipelineName"):
        yield f"{indent}Pipeline Name: {item['pipelineName']}"
    yield from _times(item, indent)
    if item["jobs"]:
        yield f"{indent}Jobs:"
    for job in item["jobs"]:
        yield from _job(job, indent + "  ")


def _job(item: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}Job Name: {item.get('name')}"
    yield f"{indent}Run Number: {item.get('runNumber')}"
    yield f"{indent}Stage Name: {item.get('stageName')}"
    yield f"{indent}Commit Hash: {item.get('commitHash') or 'N/A'}"
    if not item["executions"]:
        yield f"{indent}Status: {item.get('status')}{_because(item)}"
        return
    yield f"{indent}Executions:"
    for execution in item["executions"]:
        yield f"{indent}  Execution ID: {execution.get('id')}"
        yield f"{indent}  Status: {execution.get('status')}{_because(execution)}"
        yield f"{indent}  Allow Failure: {'true' if execution.get('allowFailure') else 'false'}"
        yield from _times(execution, indent + "  ")


def _because(item: Mapping[str, Any]) -> str:
    return f" ({item['reason']})" if item.get("reason") else ""


def _times(item: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}Start Time: {report_time(item.get('startTime'))}"
    yield f"{indent}Completion Time: {report_time(item.get('completionTime'), 'In Progress')}"


def junit(report: Any) -> str:
    """Return JUnit XML for a CI system: one suite per stage, one case per job."""
    suites = []
    for name, jobs in _suites(report):
        cases = [_case(name, job) for job in jobs]
        failures = sum("<failure" in case for case in cases)
        skipped = sum("<skipped" in case for case in cases)
        suites.append(
            f'  <testsuite name={quoteattr(name)} tests="{len(cases)}" failures="{failures}" errors="0" '
            f'skipped="{skipped}">\n' + "".join(cases) + "  </testsuite>\n"
        )
    return '<?xml version="1.0" encoding="utf-8"?>\n<testsuites>\n' + "".join(suites) + "</testsuites>\n"


def _suites(report: Any) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for item in report if isinstance(report, list) else [report]:
        if "stages" in item:
            for stage in item["stages"]:
                yield f"{item['name']}#{item['runNumber']} {stage['name']}", stage["jobs"]
        elif "jobs" in item:
            yield f"{item.get('pipelineName')}#{item.get('runNumber')} {item['name']}", item["jobs"]
        else:
            yield f"{item['pipelineName']}#{item['runNumber']} {item['stageName']}", [item]


def _case(suite: str, job: Mapping[str, Any]) -> str:
    newest = job["executions"][0] if job["executions"] else None
    status, reason = job.get("status"), (newest or job).get("reason") or ""
    head = (
        f'    <testcase classname={quoteattr(suite)} name={quoteattr(job["name"])} time="{_seconds(newest)}"'
    )
    if newest is not None and status == "FAILED":
        why = reason or f"exit code {newest.get('exitCode')}"
        if newest["allowFailure"]:
            return (
                f"{head}>\n      <skipped message={quoteattr(f'failed, allowed: {why}')}/>\n    </testcase>\n"
            )
        return f"{head}>\n      <failure message={quoteattr(why)}>{escape(why)}</failure>\n    </testcase>\n"
    if status in ("SUCCESS",):
        return f"{head}/>\n"
    return f"{head}>\n      <skipped message={quoteattr(reason or str(status))}/>\n    </testcase>\n"


def _seconds(execution: Mapping[str, Any] | None) -> str:
    began, ended = (formats.parse_time((execution or {}).get(key)) for key in ("startTime", "completionTime"))
    return "0" if began is None or ended is None else f"{(ended - began).total_seconds():.3f}"


def page(report: Any) -> str:
    """Return a self-contained HTML page: no scripts, no external resources."""
    rows = []
    for suite, jobs in _suites(report):
        for job in jobs:
            newest = job["executions"][0] if job["executions"] else {}
            cells = [
                suite,
                job["name"],
                str(job.get("status")),
                report_time(newest.get("startTime")),
                _seconds(newest),
                str((newest or job).get("reason") or ""),
            ]
            marked = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows.append(f'<tr class="{html.escape(str(job.get("status")))}">{marked}</tr>')
    heads = "".join(
        f"<th>{name}</th>" for name in ("Run and stage", "Job", "Status", "Start", "Seconds", "Reason")
    )
    style = "body{font:14px sans-serif}td,th{padding:.2em .8em;text-align:left}.FAILED{color:#b00}.SUCCESS{color:#070}"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Pipelines</title><style>{style}</style>'
        f"<table><tr>{heads}</tr>\n" + "\n".join(rows) + "</table></html>\n"
    )


def _is_known(report: Any) -> bool:
    items = report if isinstance(report, list) else [report]
    return all(
        isinstance(item, dict)
        and any(isinstance(item.get(key), list) for key in ("stages", "jobs", "executions"))
        for item in items
    )


def _without_null_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null_names(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _without_null_names(item)
            for key, item in value.items()
            if not (key == "pipelineName" and item is None)
        }
    return value
