"""Base images: resolve a reference to a content digest, pull it, and find its CPythons."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable
from typing import Final

from ci_runner.controller.engine import Image
from ci_runner.controller.engines.docker import docker_json, image_refs
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

#: Bytes that a tar archive of one file may have in addition to its content.
_TAR_BYTES: Final = 64 << 10


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
        image_id = inspected["Id"]
        return Image(image_id, reference, self._find_pythons(image_id, inspected))

    def inspect(self, reference: str) -> docker_json.Image | None:
        """Return the engine's description of an image, or None if it does not exist."""
        try:
            with translated(f"look up image {reference!r}"):
                return self._api.client.inspect_image(reference)
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
                        raise ImageUnavailable(_not_pulled(reference, step["error"]))
                    line = image_refs.pull_line(step)
                    if line is not None and progress is not None:
                        progress(line)
        except (PermanentError, EngineUnavailable) as error:
            if isinstance(error, ImageUnavailable) or status_of(error) is None:
                raise
            # The engine answered: it is the registry that did not deliver the image.
            raise ImageUnavailable(_not_pulled(reference, str(error).partition(": ")[2])) from error

    def _find_pythons(self, image_id: str, inspected: docker_json.Image) -> tuple[str, ...]:
        with self._lock:
            known = self._pythons.get(image_id)
        if known is None:
            label = docker_json.labels_of(inspected).get(image_refs.LABEL_PYTHONS)
            try:
                known = image_refs.parse_pythons(label if label else self._find(image_id))
            except PermanentError:
                known = ()  # an image without a shell: its jobs must contain their own worker
            with self._lock:
                self._pythons[image_id] = known
        return known


def read_file(api: DockerAPI, container_id: str, path: str, limit: int) -> bytes | None:
    """Return a regular file of a container that was not started, at most `limit` bytes large, else None."""
    try:
        with translated(f"read {path} of an image"):
            pieces, _ = api.client.get_archive(container_id, path)
            content = b""
            for piece in pieces:  # a tar archive with this one member
                content += piece
                if len(content) > limit + _TAR_BYTES:
                    return None
    except PermanentError:  # there is none, or something on its way is no folder
        return None
    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.next()
        opened = archive.extractfile(member) if member is not None and member.isreg() else None
        if member is not None and opened is not None and member.size <= limit:
            return opened.read(limit)
    return None


def _not_pulled(reference: str, why: str) -> str:
    return f"image {reference!r} could not be pulled ({first_line(why)}); {_next_step(reference)}"


def _next_step(reference: str) -> str:
    return f"an operator can run `docker pull {reference}`, or make one with `ci-runner image build`"
