"""A name for the uid of jobs in any image: `/etc/passwd` and `/etc/group` of the image with one more line.

Without one, `pwd.getpwuid`, `Path.owner`, ssh and initdb fail. The image's files are read as text; only lines that are
entries are taken over, and the result is mounted read-only. Images that name the uid stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import uuid
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import HOME, Bind, Engine
from ci_runner.errors import EngineUnavailable, PermanentError

_log = logging.getLogger(__name__)

#: Most bytes of one of these files.
_LIMIT: Final = 256 << 10
_NAME: Final = "runner"
#: File → its entries, with the id.
_FILES: Final = {
    "passwd": re.compile(r"(?P<name>[^\s:]+):[^:]*:(?P<id>[0-9]{1,10}):[0-9]{1,10}:[^:]*:[^:]*:[^:]*"),
    "group": re.compile(r"(?P<name>[^\s:]+):[^:]*:(?P<id>[0-9]{1,10}):[^:]*"),
}


class Accounts:
    """The folder `accounts` of one data directory: one folder per content. Thread-safe."""

    def __init__(self, data_dir: Path, engine: Engine, owner: int | None) -> None:
        """`owner`: the uid of jobs; None: the runner's own."""
        self._root = data_dir / "accounts"
        self._engine = engine
        self._ids = {
            "passwd": os.getuid() if owner is None else owner,
            "group": os.getgid() if owner is None else owner,
        }
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Bind, ...]] = {}

    def binds(self, image_id: str) -> tuple[Bind, ...]:
        """Return what to mount in containers of an image: nothing if it names the uid, or has no such files."""
        with self._lock:
            found = self._known.get(image_id)
        if found is None or not all(bind.source.is_file() for bind in found):
            found = tuple(bind for name in _FILES if (bind := self._bind(image_id, name)) is not None)
            with self._lock:
                self._known[image_id] = found
        return found

    def _bind(self, image_id: str, name: str) -> Bind | None:
        try:
            content = self._engine.image_file(image_id, f"/etc/{name}", _LIMIT)
        except (PermanentError, EngineUnavailable) as error:
            _log.warning("the users of image %s are not known: %s", image_id, error)
            return None
        made = None if content is None else _with_entry(content, name, self._ids)
        return None if made is None else Bind(self._write(name, made), f"/etc/{name}")

    def _write(self, name: str, content: bytes) -> Path:
        folder = self._root / hashlib.sha256(content).hexdigest()[:32]
        file = folder / name
        if not file.is_file():
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = folder / f".tmp-{uuid.uuid4().hex}"
            temporary.write_bytes(content)
            temporary.chmod(0o644)
            temporary.rename(file)
        return file


def _with_entry(content: bytes, name: str, ids: dict[str, int]) -> bytes | None:
    """Return the file with an entry for the job's uid or gid; None if there is one."""
    pattern, number = _FILES[name], ids[name]
    found = map(pattern.fullmatch, content.decode("utf-8", "replace").split("\n"))
    entries = [match for match in found if match is not None]
    if any(int(entry["id"]) == number for entry in entries):
        return None
    own = f"{_NAME}{number}" if any(entry["name"] == _NAME for entry in entries) else _NAME
    rest = f"{ids['group']}:{own}:{HOME}:/bin/sh" if name == "passwd" else ""
    lines = (*(entry[0] for entry in entries), f"{own}:x:{number}:{rest}")
    return "".join(f"{line}\n" for line in lines).encode()
