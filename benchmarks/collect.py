"""How long it takes to collect, hash and pack a project: ``python benchmarks/collect.py [FOLDER] [--files 10000]``.

Without a folder one is made: many small source files, once as a git work tree and once without git. Cold means that no
digest is known and the file system's cache is warm; warm means that nothing changed since the last time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import clean_environment, positive

from pytest_remote_ci.workspace import collect as workspace


def make_project(root: Path, files: int) -> None:
    """`files` source files of 1 to 8 kB in folders of fifty, all older than a minute."""
    rng = random.Random(1)
    lines = [f"    value_{number} = compute({number})\n" for number in range(500)]
    for number in range(files):
        folder = root / f"package{number // 2500}" / f"part{number // 50}"
        if number % 50 == 0:
            folder.mkdir(parents=True)
        (folder / f"module{number}.py").write_text("".join(rng.choices(lines, k=rng.randint(30, 250))))
    (root / ".gitignore").write_text("*.log\n*.tmp\n/build/\n.venv/\n**/generated/*.py\n")


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(root: Path, label: str, *, as_json: bool) -> None:
    """Print the figures of one project; as JSON: one object a line."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)

        def collect() -> workspace.Workspace:
            return workspace.collect(root, cache_folder=cache, allow_secrets=True)

        cold = timed(collect)
        warm = min(timed(collect) for _ in range(5))
        found = collect()
        manifest = timed(lambda: found.manifest().canonical())
        packing = timed(lambda: found.write_zip(cache / "project.zip"))
        size = (cache / "project.zip").stat().st_size
    if as_json:
        figures = {"cold": cold, "warm": warm, "manifest": manifest, "zip": packing, "zip bytes": size}
        print(json.dumps({"project": label, "files": len(found.files), "bytes": found.size, **figures}))
        return
    print(
        f"{label}: {len(found.files)} files, {found.size / 1e6:.1f} MB: collect cold {cold:.3f} s, warm {warm:.3f} s, "
        f"manifest {manifest:.3f} s, zip {packing:.3f} s ({size / 1e6:.1f} MB)"
    )


def main() -> None:
    """Measure a given folder, or made ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="a project; without one two are made")
    parser.add_argument("--files", type=positive, default=10_000, help="files of those that are made [10000]")
    parser.add_argument("--json", action="store_true", help="figures as JSON, one project a line")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        if not arguments.folder.is_dir():
            parser.error(f"{arguments.folder} is no folder")
        measure(arguments.folder.absolute(), str(arguments.folder), as_json=arguments.json)
        return
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        make_project(root, arguments.files)
        time.sleep(2.5)  # digests of files that were just written are not remembered
        measure(root, "without git", as_json=arguments.json)
        if shutil.which("git") is None:
            raise SystemExit("git is missing: not measured in a git work tree")
        environment = {**clean_environment(), "GIT_CONFIG_GLOBAL": os.devnull}
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=root, check=True, env=environment)
        measure(root, "in git", as_json=arguments.json)


if __name__ == "__main__":
    main()
