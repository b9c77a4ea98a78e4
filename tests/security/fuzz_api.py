# /// script
# requires-python = ">=3.10"
# dependencies = ["schemathesis>=4.32,<5", "requests>=2.31"]
# ///
"""Ask a runner for every operation of its OpenAPI document with generated parameters and bodies; print what is wrong.

Run by `test_http_fuzz.py` in an environment of its own (`uv run`): schemathesis brings pytest plugins that must not be
loaded into all other tests. Its one argument is JSON: the runner's address, a key, how many examples, and known values
of path parameters, which are used in place of generated ones now and then.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

load_all_checks()
CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
#: Answers that any HTTP server may give, whatever its description says.
HTTP_ERRORS = {400, 404, 405, 408, 413, 431, 501, 505}


class Asked:
    """What was asked and answered."""

    def __init__(self) -> None:
        self.count = 0
        self.problems: list[str] = []
        self.statuses: dict[str, int] = {}

    def send(self, session: requests.Session, operation: Any, case: Any, task: dict[str, Any]) -> None:
        """Ask once."""
        more = case.as_transport_kwargs(base_url=task["url"])
        more["headers"] = {**more["headers"], "Authorization": f"Bearer {task['key']}"}
        more.update(stream=True, timeout=60, allow_redirects=False)
        try:
            response = session.request(**more)
        except requests.ConnectionError as error:
            self.problems.append(f"{operation.label}: {more}: no answer: {error}")
            return
        except (requests.exceptions.InvalidHeader, ValueError):
            return  # the client refuses to send it
        self.count += 1
        with response:
            place = f"{operation.label} {response.status_code}"
            self.statuses[place] = self.statuses.get(place, 0) + 1
            if response.headers.get("Content-Type", "").startswith("text/event-stream"):
                return  # it does not end
            if response.status_code in HTTP_ERRORS and "detail" in response.json():
                return
            # "Not now" is an answer, where the document says so.
            wanted = CHECKS[1:] if response.status_code in (503, 507) else CHECKS
            try:
                case.validate_response(response, checks=wanted)
            except FailureGroup as group:
                self.problems += [f"{operation.label}: {error} for {more}" for error in group.exceptions]


def ask(
    operation: Any, mode: GenerationMode, task: dict[str, Any], session: requests.Session, asked: Asked
) -> None:
    """Ask for one operation with valid, or with wrong, values."""

    @settings(
        max_examples=task["examples"],
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), pick=st.integers(0, 3), data=st.data())
    def once(case: Any, pick: int, data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            if pick and name in task["known"]:
                case.path_parameters[name] = data.draw(st.sampled_from(task["known"][name]))
        asked.send(session, operation, case, task)

    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with it
        once()


def main(task: dict[str, Any]) -> int:
    """Ask for everything; the report is one line of JSON."""
    schema = schemathesis.openapi.from_url(f"{task['url']}/openapi.json")
    session = requests.Session()
    session.trust_env = False
    asked = Asked()
    for result in schema.get_all_operations():
        for mode in GenerationMode:
            ask(result.ok(), mode, task, session, asked)
    print(json.dumps({"asked": asked.count, "problems": asked.problems[:20], "statuses": asked.statuses}))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
