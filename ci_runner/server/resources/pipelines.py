"""Pipelines before they run: `POST /pipelines/check` says what is wrong with their files and what a run would do.

The same question is answered on the client's side where this package is installed (`ci_runner.pipelines.check`).
"""

from __future__ import annotations

from typing import Final

import falcon

from ci_runner.errors import TooLarge
from ci_runner.pipelines.check import answer
from pytest_remote_ci.wire.protocol import parse_json

#: Most bytes of a question: files of definitions are small.
_LONGEST: Final = 1 << 20


class PipelineCheck:
    """`POST /pipelines/check`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Problems, pipelines and the plan that was asked for. What is wrong with files is no error of the request."""
        body = req.bounded_stream.read(_LONGEST + 1)
        if len(body) > _LONGEST:
            raise TooLarge(f"body: is longer than {_LONGEST} bytes")
        resp.media = answer(parse_json("body", body))
