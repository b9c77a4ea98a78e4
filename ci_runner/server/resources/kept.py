"""Kept folders: what the caller's jobs left for the next ones."""

from __future__ import annotations

import falcon

from ci_runner.server import parameters, schemas
from ci_runner.server.context import Services
from ci_runner.server.http.auth import caller_of
from ci_runner.storage.kept_folders import KeptFolders


class Kept:
    """`GET /kept` and `DELETE /kept`."""

    def __init__(self, services: Services) -> None:
        self._folders = KeptFolders(services.storage.data_dir.resolve())

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send the list, ordered by project and pattern."""
        found = self._folders.find(caller_of(req).user.id, parameters.KEPT_ROOT.text(req))
        resp.media = [schemas.KeptFolder.of(item) for item in found]
        resp.set_header("Cache-Control", "no-store")

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Remove the caller's kept folders, or those of one project."""
        count = self._folders.clear(caller_of(req).user.id, parameters.KEPT_ROOT.text(req))
        resp.media = schemas.Cleared(removed=count)
