#!/usr/bin/env python3
"""What a build costs: a job's preparation with no cache, and with a warm package cache, of one checkout or of several.

    python benchmarks/builds.py [--rounds N] [--json] [CHECKOUT ...]

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
from typing import Any

from common import clean_environment, positive, report_at_end

HERE = Path(__file__).resolve().parents[1]
PACKAGES = (
    "pytest==8.3.5 attrs==24.2.0 flask==3.0.3 requests==2.32.3 rich==13.9.4 sqlalchemy==2.0.36 jinja2 click"
)
PYPROJECT = (
    '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "bench"\nversion = "{version}"\ndependencies = {packages}\n'
)


def measure(image: str) -> dict[str, float]:
    """Return the seconds of each kind of preparation, of the code that this process imports."""
    import time

    from support.preparer import Bench

    from ci_runner.controller.engines.docker.engine import DockerEngine
    from ci_runner.settings.groups import EnvironmentSettings

    bundle = os.environ.get("CI_RUNNER_CA_BUNDLE")
    settings = EnvironmentSettings(
        ca_bundle=Path(bundle) if bundle else None, index_url=os.environ.get("CI_RUNNER_INDEX_URL")
    )
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
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--image", default="ci-runner-base:bookworm", help="base image of the builds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.image)))
        return
    found: dict[Path, list[dict[str, float]]] = {path.resolve(): [] for path in arguments.checkouts}
    with report_at_end(lambda: summary(found), show, as_json=arguments.json):
        for _ in range(arguments.rounds):
            for path, rows in found.items():
                rows.append(one_round(path, arguments.image))
                print(f"{path.name}: {rows[-1]}", file=sys.stderr, flush=True)


def one_round(checkout: Path, image: str) -> dict[str, float]:
    """Measure a checkout's code in a process of its own."""
    env = clean_environment() | {"PYTHONPATH": f"{checkout}:{checkout / 'tests'}:{HERE / 'benchmarks'}"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--one", "--image", image],
        env=env,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def summary(found: dict[Path, list[dict[str, float]]]) -> dict[str, Any]:
    """All rounds, and medians by checkout."""
    medians = {
        str(path): {kind: statistics.median(row[kind] for row in rows) for kind in rows[0]}
        for path, rows in found.items()
        if rows
    }
    return {"rounds": [list(rows) for rows in found.values()], "medians": medians}


def show(figures: dict[str, Any]) -> None:
    """Print the medians in seconds, and what they are to those of the first checkout."""
    medians: dict[str, dict[str, float]] = figures["medians"]
    first = next(iter(medians.values()), {})
    for path, row in medians.items():
        words = "  ".join(f"{kind} {value:.2f} s ({value / first[kind]:.2f})" for kind, value in row.items())
        print(f"{Path(path).name}: {words}")


if __name__ == "__main__":
    main()
