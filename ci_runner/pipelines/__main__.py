"""``python -m ci_runner.pipelines``: read one request for `check.answer` on stdin, print the answer, as JSON."""

from __future__ import annotations

import json
import sys

from ci_runner.pipelines.check import answer
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import WireError, parse_json


def main() -> int:
    """Answer and return the exit code: 2 for an invalid request."""
    try:
        result = answer(parse_json("question", sys.stdin.buffer.read()))
    except WireError as error:
        sys.stderr.write(f"{escaped(error)}\n")
        return 2
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
