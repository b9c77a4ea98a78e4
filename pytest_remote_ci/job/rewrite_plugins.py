"""Store the byte code that pytest makes of its plugins: their assertions are rewritten once, not in every job.

Run as ``<python> -I -S /ci/tools/rewrite_plugins.py SOURCE TARGET SECONDS`` with the interpreter of an environment.
pytest rewrites every module of a distribution that has plugins, and stores the result beside the source; jobs see an
environment read-only and would do it again each time (Hypothesis: a second). The files go to the same paths below
TARGET.

Of the environment's code, this runs pytest's rewriter and what that imports, as every job with this environment does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Iterator


def modules_of_plugins(packages: str) -> Iterator[Path]:
    """Yield the modules of each distribution in the folder `packages` that has a plugin of pytest."""
    for distribution in importlib.metadata.distributions(path=[packages]):
        if not any(entry.group == "pytest11" for entry in distribution.entry_points):
            continue
        for file in distribution.files or []:
            path = Path(packages, str(file))
            if file.suffix == ".py" and ".." not in file.parts and path.is_file():
                yield path


def rewrite(source: str, target: str, ends_at: float) -> int:
    """Rewrite the plugins of the environment `source`; return how many modules were stored below `target`."""
    version = "python{}.{}".format(*sys.version_info)
    packages = os.path.join(source, "lib", version, "site-packages")
    sys.path.append(packages)
    sys.dont_write_bytecode = True
    internals = _load_internals()
    made = 0
    for path in modules_of_plugins(packages):
        if time.monotonic() > ends_at:
            break
        plain = importlib.util.cache_from_source(os.path.join(target, os.path.relpath(str(path), source)))
        try:
            tail, write = internals.rewritten_byte_code(path)
            os.makedirs(os.path.dirname(plain), exist_ok=True)
            with open(os.path.join(os.path.dirname(plain), path.stem + tail), "wb") as file:
                write(file)
        except (SyntaxError, OSError, ValueError, RecursionError):
            continue  # templates, other versions of the language
        made += 1
    return made


def _load_internals() -> ModuleType:
    """Import `pytest_internals`, which lies next to this file: with -I, that folder is not on the path."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pytest_internals.py")
    spec = importlib.util.spec_from_file_location("pytest_internals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    rewrite(sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3]))
