"""System packages on a real engine: images with them are made once, seen by jobs, and leave nothing behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.apt_repository import apt_image, run_in
from support.preparer import CA_BUNDLE, Bench, disposable_engine
from support.waiting import wait_until

from ci_runner.controller.engine import ImageBuild
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.environments.system_packages import PackageRequest
from ci_runner.errors import EnvironmentFailed, PermanentError
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = [pytest.mark.docker, pytest.mark.every(2)]

#: The rest of dpkg's words about a package whose script fails.
_BROKEN = (
    "remoteci-broken (--configure): installed remoteci-broken package post-installation script subprocess returned "
    "error exit status 3"
)
FILES = {"a.txt": "a"}


@pytest.fixture(scope="module")
def apt(docker_engine: str) -> Iterator[str]:
    with apt_image() as image:
        yield image


@pytest.fixture
def bench(apt: str, tmp_path: Path) -> Iterator[Bench]:
    settings = EnvironmentSettings(
        ca_bundle=Path(CA_BUNDLE) if CA_BUNDLE else None, http_proxy="http://ann:hidden@192.0.2.1:1"
    )
    with disposable_engine(tmp_path / "scratch") as engine:
        made = Bench(
            tmp_path / "data",
            engine,
            apt,
            settings,
            reconcile={"allowed_packages": ("remoteci-*", "remote.ci-tool")},
            install_id=engine.install,
        )
        yield made
        assert made.preparer.in_use() == frozenset()
        for image in engine.derived_images():
            engine.remove_image(image)


def packages_of(bench: Bench) -> Any:
    return bench.preparer._packages


def ensure(
    bench: Bench, *packages: str, log: list[str] | None = None, stop: threading.Event | None = None
) -> str:
    """Make the image with these packages, as a preparation does; return its id."""
    engine = bench.engine
    base = engine.image(bench.base_image or "")
    lines = [] if log is None else log
    request = PackageRequest(
        "job",
        1,
        "alice",
        base,
        packages,
        log=lines.append,
        building=lambda: None,
        stopping=(stop or threading.Event()).is_set,
    )
    found = packages_of(bench).ensure(request)
    assert found.image.pythons == base.pythons
    return str(found.image.id)


def engine_of(bench: Bench) -> DockerEngine:
    assert isinstance(bench.engine, DockerEngine)
    return bench.engine


def test_a_job_sees_its_packages_and_the_second_one_waits_for_nothing(bench: Bench) -> None:
    files = {
        "test_a.py": "import subprocess\ndef test_a():\n    print(subprocess.check_output('remoteci-tool'))\n"
    }
    wanted: dict[str, Any] = {"args": ["-s"], "root": "/home/dev/project"}
    ran = bench.run(bench.submit(files, packages=["remoteci-tool", "remoteci-lib"], **wanted))
    assert (ran.code, ran.built) == (0, True), ran.stdout + ran.stderr
    assert "b'remoteci-tool\\n'" in ran.stdout
    assert "installing system packages: remoteci-lib remoteci-tool" in ran.log
    assert "configuring the tool" in ran.log
    job = bench.submit(files, packages=["remoteci-lib", "remoteci-tool"], **wanted)
    again, built = bench.prepare(job)
    assert (again.image, again.key, built) == (ran.prepared.image, ran.prepared.key, False)
    assert again.image != bench.engine.image(bench.base_image or "").id
    (record,) = (bench.data / "images").iterdir()
    assert again.key.endswith(f".{record.stem}")  # the image stays while the job is open
    assert bench.engine.list() == []


def test_what_a_package_may_do_and_what_is_left_of_the_installation(bench: Bench, apt: str) -> None:
    image = ensure(bench, "remoteci-spy")
    seen = run_in(image, "cat", "/usr/share/remoteci/spy").splitlines()
    assert seen[0] == "0"
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID
    assert "CapEff:\t00000000000000db" in seen
    assert "CapBnd:\t00000000000000db" in seen
    assert "NoNewPrivs:\t1" in seen
    assert not [line for line in seen if line.startswith(("may mount", "may mknod", "may chroot", "/ci"))]
    # The operator's proxy serves the installation, and is not in the image.
    assert "http_proxy=http://ann:hidden@192.0.2.1:1" in seen
    assert not [line for line in seen if "TOKEN" in line or "REMOTE_CI" in line]
    client: Any = engine_of(bench).api.client
    inspected, base = client.inspect_image(image), client.inspect_image(apt)
    assert "hidden" not in json.dumps(inspected)
    for key in ("Env", "Cmd", "User", "WorkingDir", "Volumes"):
        assert inspected["Config"][key] == base["Config"][key], key
    assert not inspected["Config"]["Entrypoint"]
    # Its containers are not taken for the runner's own.
    assert not [
        name for name in ("install", "role", "job") if inspected["Config"]["Labels"][f"ci-runner.{name}"]
    ]
    left = run_in(
        image,
        "sh",
        "-c",
        "ls -A /tmp /var/lib/apt/lists /var/cache/apt/archives; stat -c %a:%u /usr/share/remoteci/spy",
    )
    assert left.split("\n")[-2] == "2755:1234"
    assert "left" not in left
    assert "Packages" not in left
    assert ".deb" not in left


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("remoteci-absent", "could not install system packages: Unable to locate package remoteci-absent"),
        # To apt the name of no package may be a regular expression.
        ("remote.ci-tool", "could not install system packages: Unable to locate package remote.ci-tool"),
        ("remoteci-broken", f"could not install system packages: dpkg: error processing package {_BROKEN}"),
    ],
)
def test_a_failed_installation_says_why_and_leaves_nothing(bench: Bench, name: str, words: str) -> None:
    log: list[str] = []
    with pytest.raises(EnvironmentFailed) as failed:
        ensure(bench, name, log=log)
    assert str(failed.value) == words
    assert bench.engine.list() == []
    assert bench.engine.derived_images() == frozenset()
    assert name != "remoteci-broken" or "all is lost" in log


def test_packages_that_the_operator_does_not_allow(bench: Bench) -> None:
    with pytest.raises(PermanentError) as refused:
        bench.prepare(bench.submit(FILES, packages=["remoteci-lib", "gcc"]))
    assert str(refused.value) == (
        "package 'gcc' may not be installed on this runner (allowed: remoteci-*, remote.ci-tool); its operator can "
        "allow it with the setting `allowed-packages`"
    )
    assert bench.engine.derived_images() == frozenset()


def test_jobs_that_want_the_same_image_make_it_once(bench: Bench) -> None:
    logs: list[list[str]] = [[] for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        images = list(pool.map(lambda log: ensure(bench, "remoteci-tool", log=log), logs))
    assert set(images) == bench.engine.derived_images()
    firsts = sorted(log[0] for log in logs)
    assert firsts == [
        "installing system packages: remoteci-tool",
        *["waiting for the system packages that another job installs"] * 2,
    ]


def test_a_stopped_installation_leaves_nothing_and_begins_again(bench: Bench) -> None:
    stop, log = threading.Event(), list[str]()
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(ensure, bench, "remoteci-endless", log=log, stop=stop)
        wait_until(lambda: "waiting" in log, 60, what="the package's script to run")
        (seen,) = bench.engine.list()
        assert (seen.role, seen.job_id, seen.state) == ("build", "job", "running")
        assert {seen.name} == bench.preparer.in_use()
        # The disk's watchdog measures what the installation writes.
        footprint = bench.engine.footprint(seen.id)
        assert len(footprint.processes) > 1
        assert any((folder / "usr/bin/remoteci-endless").exists() for folder in footprint.folders)
        stop.set()
        with pytest.raises(PreparationStopped):
            going.result(30)
    assert bench.engine.list() == []
    assert bench.engine.derived_images() == frozenset()
    ensure(bench, "remoteci-lib")


def test_output_without_end_is_cut(bench: Bench) -> None:
    log: list[str] = []
    ensure(bench, "remoteci-loud", log=log)
    assert 3_900_000 < sum(len(line) + 1 for line in log) < 4_300_000


def test_images_are_removed_when_nothing_needs_them(bench: Bench) -> None:
    image = ensure(bench, "remoteci-lib")
    (record,) = (bench.data / "images").iterdir()
    evictor = bench.preparer._evictor
    evictor._interval, evictor._size, evictor._fresh = 0, 0, 0
    bench.preparer.evict(frozenset({f"abc.{record.stem}"}))
    assert bench.engine.derived_images() == {image}
    bench.preparer.evict(frozenset())
    assert bench.engine.derived_images() == frozenset()
    assert list((bench.data / "images").iterdir()) == []
    # Not beyond the size of the cache, but not used for a month.
    again = ensure(bench, "remoteci-lib")
    assert again != image
    evictor._size = 1 << 40
    bench.preparer.evict(frozenset())
    assert bench.engine.derived_images() == {again}
    os.utime(record, (time.time() - 31 * 86400,) * 2)
    bench.preparer.evict(frozenset())
    assert bench.engine.derived_images() == frozenset()


def test_an_image_that_somebody_removed_is_made_again(bench: Bench) -> None:
    image = ensure(bench, "remoteci-lib")
    assert bench.engine.remove_image(image)
    assert ensure(bench, "remoteci-lib") not in (image, "")
    used = ensure(bench, "remoteci-lib")
    client: Any = engine_of(bench).api.client
    container = client.create_container(used, ["true"])["Id"]
    try:
        assert not bench.engine.remove_image(used)
    finally:
        client.remove_container(container)


def test_an_image_without_a_record_goes(bench: Bench) -> None:
    """A controller that died made it; its name proves nothing."""
    image = ensure(bench, "remoteci-lib")
    (record,) = (bench.data / "images").iterdir()
    record.unlink()
    bench.preparer.evict(frozenset())
    assert bench.engine.derived_images() == frozenset()
    record.write_text("{")
    assert ensure(bench, "remoteci-lib") != image
    bench.preparer.evict(frozenset())
    assert len(bench.engine.derived_images()) == 1


def test_an_image_of_another_user_with_an_entry_point(bench: Bench) -> None:
    changes = ("USER 1234", 'ENTRYPOINT ["/bin/false"]', "WORKDIR /srv", "ENV WITHIN=yes")
    with apt_image(*changes) as image:
        bench.base_image = image
        made = ensure(bench, "remoteci-tool")
        found = engine_of(bench).api.client.inspect_image(made).get("Config") or {}
        assert (found["User"], found["Entrypoint"], found["WorkingDir"]) == ("1234", ["/bin/false"], "/srv")
        assert run_in(made, "sh", "-c", "id -u; echo $WITHIN; remoteci-tool").split() == [
            "1234",
            "yes",
            "remoteci-tool",
        ]
        engine_of(bench).remove_image(made)


def test_an_image_without_a_package_manager(bench: Bench) -> None:
    with apt_image(script="rm /usr/bin/apt-get\n") as image:
        bench.base_image = image
        with pytest.raises(EnvironmentFailed) as failed:
            ensure(bench, "remoteci-tool")
    assert str(failed.value) == (
        f"image {image!r} has no package manager (apt-get, apk, dnf): remove `packages` from [tool.remote-ci], or name "
        "another image with `image`"
    )
    with apt_image(script="rm /bin/sh\n") as image:
        bench.base_image = image
        with pytest.raises(
            EnvironmentFailed, match="has no shell, without which no package can be installed: remove"
        ):
            ensure(bench, "remoteci-tool")
    assert bench.engine.list() == []


def test_a_command_may_be_silent_for_longer_than_a_call_of_the_engine(bench: Bench) -> None:
    engine = engine_of(bench)
    patient = DockerEngine(engine.install, scratch=bench.data / "scratch", timeout=2.0)
    image = patient.image(bench.base_image or "").id
    container = patient.create_image_build(ImageBuild(f"silent-{engine.install}", image, "job", 1))
    try:
        patient.start(container)
        written: list[bytes] = []
        command = ("sh", "-c", "sleep 4; echo here; echo there >&2; exit 5")
        assert patient.run_as_root(container, command, {}, written.append) == 5
        assert b"".join(written) == b"here\nthere\n"
    finally:
        patient.remove(container)
        patient.close()
