"""Contents of `/ci/tools`: the programs that run inside containers, and uv.

There is one folder per content, so that a running container keeps its programs while the runner is upgraded.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from pathlib import Path

from pytest_remote_ci import job
from pytest_remote_ci.wire import records


class Tools:
    """The folder `tools/<digest>` of one data directory. Thread-safe."""

    def __init__(self, data_dir: Path, uv: Path | None = None) -> None:
        """Use the binary `uv`; default: the one installed next to the runner."""
        self._root = data_dir / "tools"
        self._uv = uv
        self._lock = threading.Lock()
        self._folder: Path | None = None

    def folder(self) -> Path:
        """Return the complete folder, made at first use."""
        with self._lock:
            if self._folder is None or not self._folder.is_dir():
                self._folder = self._make()
            return self._folder

    def _make(self) -> Path:
        uv = self._uv
        if uv is None:
            from uv import find_uv_bin

            uv = Path(find_uv_bin())
        # Mounted as plain files, and never run by the runner.
        programs = (path for path in Path(job.__file__).parent.iterdir() if path.suffix in (".py", ".sh"))
        sources = {path.name: path for path in programs if path.name != "__init__.py"} | {"uv": uv}
        # What they share with the rest, at its place in a package (see `pytest_remote_ci.job.boot.make_package`).
        shared = Path(records.__file__)
        sources |= {f"wire/{path.name}": path for path in (shared, shared.with_name("__init__.py"))}
        digest = hashlib.sha256()
        for name, path in sorted(sources.items()):
            with path.open("rb") as file:
                digest.update(f"{name}\0{hashlib.sha256(file.read()).hexdigest()}\n".encode())
        folder = self._root / digest.hexdigest()[:32]
        if folder.is_dir():
            return folder
        temporary = self._root / f".tmp-{uuid.uuid4().hex}"
        (temporary / "wire").mkdir(parents=True)
        for name, path in sources.items():
            shutil.copyfile(path, temporary / name)
            (temporary / name).chmod(0o755)
        for made in (temporary, temporary / "wire"):
            made.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(temporary, ignore_errors=True)
            if not folder.is_dir():
                raise
        return folder
