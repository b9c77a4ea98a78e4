"""`POST /pipelines/check`: find problems in pipeline files, and show what a run would do.

If this package is installed on the client, it makes the same check locally (`ci_runner.pipelines.check`).
"""

from __future__ import annotations

from typing import Final

import falcon

from ci_runner.errors import TooLarge
from ci_runner.pipelines.check import answer
from pytest_remote_ci.wire.protocol import parse_json

#: Maximum bytes of a request: files of definitions are small.
_LONGEST: Final = 1 << 20


class PipelineCheck:
    """`POST /pipelines/check`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send problems, pipelines and the requested plan; problems in files are not an error of the request."""
        body = req.bounded_stream.read(_LONGEST + 1)
        if len(body) > _LONGEST:
            raise TooLarge(f"body: is longer than {_LONGEST} bytes")
        resp.media = answer(parse_json("body", body))
