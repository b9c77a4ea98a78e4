#!/usr/bin/env python3
"""What a build costs: a job's preparation with no cache, and with a warm package cache, of one checkout or of several.

    python benchmarks/builds.py [--rounds N] [CHECKOUT ...]

Needs Docker and a package index. Each round measures every checkout once, in turn, so that a busy machine slows all of
them. `cold`: nothing is there; `resolve`: other requirements, all packages in the cache; `layer`: the project's build
configuration has changed; `again`: nothing is to be built. The packages are pytest with its dependencies and ten more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PACKAGES = (
    "pytest==8.3.5 attrs==24.2.0 flask==3.0.3 requests==2.32.3 rich==13.9.4 sqlalchemy==2.0.36 jinja2 click"
)
PYPROJECT = (
    '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "bench"\nversion = "{version}"\ndependencies = {packages}\n'
)


def measure() -> dict[str, float]:
    """Seconds of each kind of preparation, of the code that this process imports."""
    import time

    from preparing import Bench

    from ci_runner.config import EnvironmentSettings
    from ci_runner.controller.engines.docker import DockerEngine

    bundle = os.environ.get("CI_RUNNER_CA_BUNDLE")
    settings = EnvironmentSettings(
        ca_bundle=Path(bundle) if bundle else None, index_url=os.environ.get("CI_RUNNER_INDEX_URL")
    )
    image = os.environ.get("CI_RUNNER_TEST_IMAGE", "ci-runner-base:bookworm")
    install = uuid.uuid4().hex[:12]
    with tempfile.TemporaryDirectory() as folder:
        engine = DockerEngine(install, scratch=Path(folder) / "scratch")
        engine.probe()
        bench = Bench(Path(folder) / "data", engine, image, settings, install_id=install)
        packages = PACKAGES.split()

        def seconds(version: str, packages: list[str]) -> float:
            text = PYPROJECT.format(version=version, packages=json.dumps(packages))
            job = bench.submit({"pyproject.toml": text, "src/bench.py": "", "test_a.py": ""})
            began = time.monotonic()
            bench.prepare(job)
            return time.monotonic() - began

        try:
            return {
                "cold": seconds("1", packages),
                "resolve": seconds("1", packages[:-1]),
                "layer": seconds("2", packages),
                "again": seconds("2", packages),
            }
        finally:
            engine.uninstall()
            engine.close()


def main() -> None:
    """Measure each checkout in turn; print medians and what they are to the first one's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure()))
        return
    found: dict[Path, list[dict[str, float]]] = {path.resolve(): [] for path in arguments.checkouts}
    for _ in range(arguments.rounds):
        for path, rows in found.items():
            env = {**os.environ, "PYTHONPATH": f"{path}:{path / 'tests'}"}
            done = subprocess.run(
                [sys.executable, str(Path(__file__).resolve()), "--one"],
                env=env, cwd=path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{path.name}: {rows[-1]}", file=sys.stderr, flush=True)
    first: dict[str, float] = {}
    for path, rows in found.items():
        medians = {kind: statistics.median(row[kind] for row in rows) for kind in rows[0]}
        first = first or medians
        figures = "  ".join(
            f"{kind} {value:.2f} s ({value / first[kind]:.2f})" for kind, value in medians.items()
        )
        print(f"{path.name}: {figures}")


if __name__ == "__main__":
    main()
