"""Base images: resolve a reference to a content digest, pull it, and find its CPythons."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from ci_runner.controller.engine import Image
from ci_runner.controller.engines.docker import image_refs
from ci_runner.controller.engines.docker.api import DockerAPI, status_of, translated
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError
from ci_runner.model.verdict import first_line

#: Prints "3.11" for each CPython found; runs under the jobs' profile.
FIND_PYTHONS: Final = """
for folder in $(echo "$PATH" | tr ':' ' ') /usr/local/bin /usr/bin /opt/python/bin; do
  for python in "$folder"/python3 "$folder"/python3.[0-9] "$folder"/python3.[0-9][0-9]; do
    [ -x "$python" ] && "$python" -I -S -c 'import sys
if sys.implementation.name == "cpython": print("%d.%d" % sys.version_info[:2])' 2>/dev/null
  done
done
true
"""


class DockerImages:
    """The engine's base images. `find` runs `FIND_PYTHONS` in the image with a given id."""

    def __init__(self, api: DockerAPI, find: Callable[[str], str]) -> None:
        self._api = api
        self._find = find
        self._lock = threading.Lock()
        self._pythons: dict[str, tuple[str, ...]] = {}

    def resolve(self, reference: str, *, pull: bool, progress: Callable[[str], None] | None) -> Image:
        """See `Engine.image`."""
        inspected = self.inspect(reference)
        if inspected is None and pull and not reference.startswith("sha256:"):
            self._pull(reference, progress)
            inspected = self.inspect(reference)
        if inspected is None:
            raise ImageUnavailable(f"image {reference!r} is not on the runner; {_next_step(reference)}")
        image_id = str(inspected["Id"])
        return Image(image_id, reference, self._find_pythons(image_id, inspected))

    def inspect(self, reference: str) -> dict[str, Any] | None:
        """Return the engine's description of an image, or None if it does not exist."""
        try:
            with translated(f"look up image {reference!r}"):
                found: dict[str, Any] = self._api.client.inspect_image(reference)
                return found
        except PermanentError as error:
            if status_of(error) == 404:
                return None
            # 400: the reference is malformed.
            raise ImageUnavailable(f"{reference!r} is not an image: {first_line(str(error))}") from error

    def _pull(self, reference: str, progress: Callable[[str], None] | None) -> None:
        repository, tag = image_refs.split_reference(reference)
        try:
            with translated(f"pull image {reference!r}"):
                for step in self._api.client.pull(repository, tag=tag, stream=True, decode=True):
                    if "error" in step:
                        raise ImageUnavailable(_not_pulled(reference, str(step["error"])))
                    line = image_refs.pull_line(step)
                    if line is not None and progress is not None:
                        progress(line)
        except (PermanentError, EngineUnavailable) as error:
            if isinstance(error, ImageUnavailable) or status_of(error) is None:
                raise
            # The engine answered: it is the registry that did not deliver the image.
            raise ImageUnavailable(_not_pulled(reference, str(error).partition(": ")[2])) from error

    def _find_pythons(self, image_id: str, inspected: dict[str, Any]) -> tuple[str, ...]:
        with self._lock:
            known = self._pythons.get(image_id)
        if known is None:
            label = ((inspected.get("Config") or {}).get("Labels") or {}).get(image_refs.LABEL_PYTHONS)
            try:
                known = image_refs.parse_pythons(label if label else self._find(image_id))
            except PermanentError:
                known = ()  # an image without a shell: its jobs must contain their own worker
            with self._lock:
                self._pythons[image_id] = known
        return known


def _not_pulled(reference: str, why: str) -> str:
    return f"image {reference!r} could not be pulled ({first_line(why)}); {_next_step(reference)}"


def _next_step(reference: str) -> str:
    return f"an operator can run `docker pull {reference}`, or make one with `ci-runner image build`"
