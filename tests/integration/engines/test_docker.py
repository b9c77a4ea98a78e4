"""What only the Docker engine does, against a real one."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support.engines import ENDS, FOREVER, Behaviour, DockerKit, Kit, kit_for
from support.waiting import wait_until

from ci_runner.controller.artifacts import scan
from ci_runner.controller.cleanup.disk_watchdog import sizes_below
from ci_runner.controller.engine import STORE, Bind, Limits
from ci_runner.controller.engines.docker import container_profile
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.errors import EngineUnavailable, ImageUnavailable, PermanentError
from pytest_remote_ci.wire.globs import Globs

pytestmark = pytest.mark.docker


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    with kit_for("docker", tmp_path) as kit:
        yield kit


@pytest.fixture
def client(kit: Kit) -> Any:
    assert isinstance(kit.engine, DockerEngine)
    return kit.engine.api.client


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "target",
    [
        "/workspace",
        "/root/proj",
        "/root/deep/er/proj",
        "/home/somebody/src/proj",
        "/tmp/pytest/proj",
        "/srv/a b/ü",
        "/var/lib/proj",
        "/Users/me/proj",
        "/opt/x/y",
        "/mnt/c/proj",
    ],
)
def test_a_workspace_can_be_anywhere_and_is_writable_for_the_jobs_user(kit: Kit, target: str) -> None:
    script = (
        'set -e; test "$(pwd)" = "$0"; cat both.txt >/ci/spool/stdout; echo x >"$0/new"; '
        'cd /; cat "$0/folder/run.sh" >/dev/null; id -u >>/ci/spool/stdout; touch /tmp/y'
    )
    spec = kit.spec(ENDS, overlay=kit.overlay(target), cwd=target, argv=("sh", "-c", script, target))
    container_id = kit.engine.create(spec)
    kit.engine.start(container_id)
    seen = kit.ended(container_id)
    assert seen.exit_code == 0, kit.engine.output(container_id)
    uid = 65532 if os.getuid() == 0 else os.getuid()
    assert (kit.spool() / "stdout").read_text() == f"top\n{uid}\n"
    assert (kit.folder / "upper" / "new").read_text() == "x\n"


def test_what_a_build_writes_is_looked_for_in_its_cell_but_not_in_its_package_cache(kit: Kit) -> None:
    store = kit.folder / "store"
    store.mkdir()
    binds = (*kit.spec(FOREVER).binds, Bind(store, STORE, read_only=False))
    overlay = kit.overlay("/workspace")
    container_id = kit.launch(FOREVER, role="build", overlay=overlay, binds=binds)
    found = kit.engine.footprint(container_id)
    assert found.processes
    assert not found.is_service
    assert set(found.folders) == {kit.spool(), overlay.upper, overlay.work}


@pytest.fixture
def image_with_a_volume(kit: Kit, client: Any) -> Iterator[str]:
    """An image that gives everybody a folder on the host's disk."""
    program = f"FROM {kit.image}\nRUN mkdir --mode=777 /data\nVOLUME /data\n"
    tag = f"ci-runner-test-{kit.install}"
    list(client.build(fileobj=io.BytesIO(program.encode()), tag=tag, rm=True, decode=True))
    yield client.inspect_image(tag)["Id"]
    client.remove_image(tag, force=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the engine's volumes")
@pytest.mark.parametrize("role", ["test", "build"])
def test_what_is_written_to_a_volume_of_the_image_is_looked_for(
    kit: Kit, image_with_a_volume: str, role: Literal["test", "build"]
) -> None:
    argv = ("sh", "-c", "head -c 5000000 /dev/zero >/data/big; echo >/ci/spool/done; exec sleep 600")
    overlay = kit.overlay("/workspace")
    container_id = kit.launch(FOREVER, role=role, image_id=image_with_a_volume, argv=argv, overlay=overlay)
    wait_until((kit.spool() / "done").exists, 20, what="a written file")
    folders = kit.engine.footprint(container_id).folders
    assert sum(sum(sizes_below(folder)) for folder in folders) > 5_000_000


def test_files_of_an_image_are_read_without_following_links(kit: Kit, client: Any) -> None:
    image = kit.engine.image(kit.image).id
    found = kit.engine.image_file(image, "/etc/passwd", 1 << 20)
    assert found is not None
    assert found.startswith(b"root:")
    assert kit.engine.image_file(image, "/etc/passwd", len(found) - 1) is None
    for path in ("/proc/self/exe", "/etc", "/bin/sh", "/etc/nothing", "/etc/passwd/x"):
        assert kit.engine.image_file(image, path, 1 << 20) is None, path
    assert not client.containers(all=True, filters={"label": f"ci-runner.install={kit.install}"})


@pytest.mark.parametrize(
    ("program", "oom"),
    [
        pytest.param("x = []\nwhile True: x.append(bytearray(1 << 20))", True, id="memory ran out"),
        pytest.param("import os; os._exit(137)", False, id="any other end"),
    ],
)
def test_a_flag_of_full_memory_that_the_engine_forgets_is_found_among_its_events(
    kit: Kit, program: str, oom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(kit.engine, DockerEngine)
    api = kit.engine.look.client
    inspect = api.inspect_container

    def without_flag(container: str) -> Any:
        found = inspect(container)
        found["State"]["OOMKilled"] = False
        return found

    monkeypatch.setattr(api, "inspect_container", without_flag)
    limits = Limits(memory=64 << 20, pids=64)
    container_id = kit.launch(Behaviour(""), argv=("python3", "-c", program), limits=limits)
    seen = kit.ended(container_id, 60)
    assert (seen.exit_code, seen.oom_killed) == (137, oom)
    [listed] = kit.engine.list()
    assert listed.oom_killed == oom


def test_an_event_of_full_memory_that_comes_after_the_end_counts(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(kit.engine, DockerEngine)
    api = kit.engine.look.client
    inspect, events, asked = api.inspect_container, api.events, []

    def without_flag(container: str) -> Any:
        found = inspect(container)
        found["State"]["OOMKilled"] = False
        return found

    def late(**options: Any) -> Any:
        asked.append(options)
        return events(**options) if len(asked) > 1 else []

    monkeypatch.setattr(api, "inspect_container", without_flag)
    monkeypatch.setattr(api, "events", late)
    program = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    limits = Limits(memory=64 << 20, pids=64)
    container_id = kit.launch(Behaviour(""), argv=("python3", "-c", program), limits=limits)
    assert kit.ended(container_id, 60).oom_killed
    assert len(asked) >= 2


def test_what_the_runner_killed_itself_is_not_waited_for(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kit.engine, DockerEngine)
    monkeypatch.setattr(kit.engine, "_ran_out_of_memory", pytest.fail)
    container_id = kit.launch(FOREVER)
    kit.engine.signal(container_id, "KILL")
    assert kit.ended(container_id).exit_code == 137


def test_masks_go_with_their_container(kit: Kit, client: Any) -> None:
    container_id = kit.launch(ENDS, overlay=kit.overlay("/root/proj"), cwd="/root/proj")
    kit.ended(container_id)
    label = {"label": f"ci-runner.install={kit.install}"}
    assert len(client.volumes(filters=label)["Volumes"]) == 2
    kit.engine.remove(container_id)
    assert not client.volumes(filters=label)["Volumes"]


def test_a_volume_left_by_a_crash_is_swept_unless_its_container_is_wanted(kit: Kit, client: Any) -> None:
    marks = {"ci-runner.install": kit.install, container_profile.LABEL_CONTAINER: "cir-x-1"}
    client.create_volume(container_profile.volume_name(f"cir-{kit.install}-1"), labels=marks)
    assert kit.engine.sweep(frozenset({"cir-x-1"})) == 0
    assert kit.engine.sweep(frozenset()) == 1
    assert kit.engine.sweep(frozenset()) == 0


def test_a_throw_away_container_left_by_a_crash_is_swept_and_never_observed(kit: Kit, client: Any) -> None:
    marks = {"ci-runner.install": kit.install, "ci-runner.role": container_profile.ROLE_PROBE}
    image = kit.engine.image(kit.image).id
    made = client.create_container_from_config({"Image": image, "Cmd": ["true"], "Labels": marks})
    assert kit.engine.list() == []
    assert kit.engine.sweep(frozenset()) == 1
    assert client.containers(all=True, filters={"id": made["Id"]}) == []


def test_a_container_whose_start_was_interrupted_is_started_by_the_successor(kit: Kit) -> None:
    spec = kit.spec(ENDS)
    container_id = kit.engine.create(spec)
    kit.engine.close()
    kit.engine = kit.make(kit.install)
    assert kit.engine.create(spec) == container_id
    kit.engine.start(container_id)
    assert kit.ended(container_id).exit_code == 0


def test_an_image_that_cannot_be_pulled_names_the_next_step(kit: Kit) -> None:
    lines: list[str] = []
    reference = "127.0.0.1:9/no/such:1"
    with pytest.raises(ImageUnavailable) as caught:
        kit.engine.image(reference, progress=lines.append)
    assert reference in str(caught.value)
    assert "docker pull" in str(caught.value)
    assert "ci-runner image build" in str(caught.value)


@pytest.mark.parametrize("reference", ["", "UPPER/case", "a b", "../x", "x:y:z"])
def test_what_is_no_reference_is_an_image_error(kit: Kit, reference: str) -> None:
    with pytest.raises(ImageUnavailable):
        kit.engine.image(reference, pull=False)


def test_an_image_that_vanished_is_an_image_error(kit: Kit) -> None:
    with pytest.raises(ImageUnavailable):
        kit.engine.create(kit.spec(ENDS, image_id="sha256:" + "0" * 64))


def test_a_setting_that_the_engine_refuses_is_permanent(kit: Kit) -> None:
    limits = Limits(cpus=4096.0)
    with pytest.raises(PermanentError, match="could not create the container"):
        kit.engine.create(kit.spec(ENDS, limits=limits))


def test_a_workspace_that_cannot_be_mounted_is_permanent_and_hides_the_hosts_paths(kit: Kit) -> None:
    overlay = kit.overlay()
    overlay.work.rmdir()
    overlay.work.write_text("not a folder")
    container_id = kit.engine.create(kit.spec(ENDS, overlay=overlay))
    with pytest.raises(PermanentError, match="could not be started") as caught:
        kit.engine.start(container_id)
    assert str(kit.folder) not in str(caught.value)
    assert "/volumes/" not in str(caught.value)
    seen = kit.engine.inspect(container_id)
    assert seen is not None
    assert seen.state == "created"
    assert seen.error is not None
    assert str(kit.folder) not in seen.error


def test_a_paused_container_can_be_killed(kit: Kit, client: Any) -> None:
    container_id = kit.launch(FOREVER)
    kit.ready()
    client.pause(container_id)
    assert [seen.state for seen in kit.engine.list()] == ["paused"]
    kit.engine.signal(container_id, "KILL")
    assert kit.ended(container_id).exit_code == 137


def test_listing_asks_about_each_ended_container_once(
    kit: Kit, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        kit.ended(kit.launch(Behaviour(f"exit {number}"), f"job{number}"))
    kit.engine.close()
    kit.engine = engine = kit.make(kit.install)
    assert isinstance(engine, DockerEngine)
    asked: list[str] = []
    inspect = engine._inspect_raw

    def counted(container: str) -> Any:
        asked.append(container)
        return inspect(container)

    monkeypatch.setattr(engine, "_inspect_raw", counted)
    assert sorted(seen.exit_code or 0 for seen in engine.list()) == [0, 1, 2]
    assert len(asked) == 3
    engine.list()
    assert len(asked) == 3


def test_a_network_is_let_go_unless_a_container_runs_on_it(kit: Kit, client: Any) -> None:
    label = {"label": f"ci-runner.install={kit.install}"}
    container_id = kit.launch(FOREVER, network="egress")
    kit.ready()
    kit.engine.close()
    assert len(client.networks(filters=label)) == 1
    kit.engine = kit.make(kit.install)
    kit.engine.remove(container_id)
    assert isinstance(kit.engine, DockerEngine)
    kit.engine.network.ensure()
    kit.engine.close()
    assert client.networks(filters=label) == []
    kit.engine = kit.make(kit.install)


def test_a_network_that_went_between_create_and_start_is_made_again(kit: Kit, client: Any) -> None:
    container_id = kit.engine.create(kit.spec(ENDS, network="egress"))
    client.remove_network(container_profile.network_name(kit.install))
    kit.engine.start(container_id)
    assert kit.ended(container_id).exit_code == 0


# -- a connection that breaks
class Proxy:
    """Between an engine and its clients: a socket that can be taken away, or stop answering."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.silent = False
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self._stop = threading.Event()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen(32)
        self._spawn(self._accept, self._stop)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._server.close()
        self.path.unlink()

    def _spawn(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if select.select([self._server], [], [], 0.02)[0]:
                self._spawn(self._copy, self._server.accept()[0], stop)

    def _copy(self, inner: socket.socket, stop: threading.Event) -> None:
        outer = socket.socket(socket.AF_UNIX)
        with inner, outer, contextlib.suppress(OSError):
            outer.connect("/var/run/docker.sock")
            while not stop.is_set():
                for ready in select.select([inner, outer], [], [], 0.02)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if not (self.silent and ready is outer):
                        (outer if ready is inner else inner).sendall(data)


@pytest.fixture
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    made = Proxy(tmp_path_factory.mktemp("proxy") / "docker.sock")
    yield made
    with contextlib.suppress(OSError):
        made.stop()


def test_an_engine_that_restarts_is_found_again_and_wakes(kit: Kit, proxy: Proxy) -> None:
    engine = DockerEngine(kit.install, scratch=kit.folder, base_url=proxy.url)
    try:
        woken = threading.Event()
        engine.watch(woken.set)
        assert woken.wait(10)
        proxy.stop()
        wait_until(lambda: not engine.events.connected.is_set(), what="the end of the events")
        with pytest.raises(EngineUnavailable, match="no Docker engine answers"):
            engine.list()
        woken.clear()
        proxy.start()
        assert woken.wait(10)
        assert engine.list() == []
        woken.clear()
        container_id = kit.launch(ENDS)
        assert woken.wait(10)
        kit.ended(container_id)
    finally:
        engine.close()


def test_an_engine_that_does_not_answer_in_time_is_unavailable(kit: Kit, proxy: Proxy) -> None:
    engine = DockerEngine(kit.install, scratch=kit.folder, base_url=proxy.url, timeout=1.0)
    try:
        assert engine.list() == []
        proxy.silent = True
        with pytest.raises(EngineUnavailable):
            engine.list()
        proxy.silent = False
        assert engine.list() == []
    finally:
        proxy.silent = False
        engine.close()


def test_a_create_whose_answer_was_lost_is_adopted(kit: Kit, proxy: Proxy) -> None:
    spec = kit.spec(ENDS)
    engine = DockerEngine(kit.install, scratch=kit.folder, base_url=proxy.url, timeout=1.0)
    try:
        assert engine.derived_images() == frozenset()  # connects
        proxy.silent = True
        with pytest.raises(EngineUnavailable):
            engine.create(spec)
    finally:
        proxy.silent = False
        engine.close()
    (seen,) = kit.engine.list()
    assert kit.engine.create(spec) == seen.id
    kit.engine.start(seen.id)
    assert kit.ended(seen.id).exit_code == 0


# -- the probe
def test_the_probe_looks_once_and_leaves_nothing(kit: Kit, client: Any) -> None:
    probe = kit.engine.probe()
    assert kit.engine.probe() is probe
    assert probe.usable
    assert probe.facts["probe"].split() == ["bind", "append", "overlay", "renamed", "ipv6", "network"]
    assert probe.facts["storage driver"]
    assert not [path for path in kit.folder.iterdir() if path.name.startswith(".probe")]
    label = {"label": f"ci-runner.install={kit.install}"}
    assert client.containers(all=True, filters=label) == []
    assert not client.volumes(filters=label)["Volumes"]


def test_what_a_kernel_refuses_is_found_out_and_left_out(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown option of the overlay, a sysctl of a kernel without IPv6: the engine's own refusals."""
    refused = (
        container_profile._RENAMES.replace("redirect_dir", "redirect_dir_of_later"),
        "net.ipv6.conf.nowhere.disable_ipv6",
    )
    monkeypatch.setattr(container_profile, "_RENAMES", refused[0])
    monkeypatch.setattr(
        container_profile,
        "loopback",
        lambda profile: {"Sysctls": {refused[1]: "0"}} if profile.features.ipv6_loopback else {},
    )
    probe = kit.engine.probe()
    assert probe.usable
    assert probe.facts["probe"].split() == ["bind", "append", "overlay", "renamed", "network"]
    assert [text for text in probe.problems if "cannot rename folders" in text]
    assert [text for text in probe.problems if "no ::1" in text]
    container_id = kit.launch(ENDS, overlay=kit.overlay())
    assert kit.ended(container_id).exit_code == 0


#: Renames folders of the lower layers in all ways; prints what became of each.
RENAMES = """
import os, sys
os.chdir("/workspace")
both = open("folder/run.sh").read()
os.rename("folder", "renamed")
assert open("renamed/run.sh").read() == both and not os.path.exists("folder")
os.mkdir("new")
os.rename("renamed", "new/inside")
open("new/inside/added", "w").write("added")
os.rename("new", "twice")
assert sorted(os.listdir("twice/inside")) == ["added", "run.sh"]
os.rename("twice/inside/run.sh", "run.sh")
assert os.listdir("twice/inside") == ["added"]
os.mkdir("folder")
assert os.listdir("folder") == []
open("folder/run.sh", "w").write("another")
os.rename("twice/inside", "other")
os.rename("folder", "twice/folder")
os.rename("other", "folder")
assert os.listdir("folder") == ["added"] and os.listdir("twice") == ["folder"]
print("all", file=open("/ci/spool/stdout", "w"))
"""


@pytest.mark.parametrize("kind", ["docker", "process"])
def test_folders_of_the_workspace_can_be_renamed(kind: str, tmp_path: Path) -> None:
    with kit_for(kind, tmp_path) as kit:
        overlay = kit.overlay()
        argv = ("python3", "-c", RENAMES)
        ids = [
            kit.launch(
                Behaviour(""), name, argv=argv, overlay=dataclasses.replace(overlay, upper=upper, work=work)
            )
            for name, upper, work in (
                ("job", overlay.upper, overlay.work),
                ("other", kit.new_folder("upper2"), kit.new_folder("work2")),
            )
        ]  # the same lower layers at the same time
        for container_id in ids:
            seen = kit.ended(container_id)
            assert seen.exit_code == 0, kit.engine.output(container_id)
        assert (kit.spool() / "stdout").read_text() == "all\n"
        assert sorted(path.name for path in overlay.lowers[1].rglob("*")) == [
            "both.txt",
            "doomed.txt",
            "folder",
            "kept.txt",
            "run.sh",
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can see which folders were renamed")
def test_files_of_a_renamed_folder_that_did_not_change_are_said_not_to_be_kept(kit: Kit) -> None:
    overlay = kit.overlay()
    script = (
        "import os; os.chdir('/workspace'); os.rename('folder', 'new'); open('new/result.sh', 'w').close()"
    )
    kit.ended(kit.launch(Behaviour(""), argv=("python3", "-c", script), overlay=overlay))
    found = scan.find(overlay.upper, Globs(("new/**",)))
    assert [file.path for file in found.files] == ["new/result.sh"]
    assert found.omissions.lines() == [
        "not stored: 'new' is a folder of the project under another name: files in it that the job did not change"
    ]


def test_an_engine_that_sees_other_folders_is_refused(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kit, DockerKit)
    engine = kit.engine
    assert isinstance(engine, DockerEngine)
    ordinary = engine._run_probe

    def elsewhere(spec: Any, features: container_profile.Features) -> str:
        """What a container on another machine would do: see, and write to, folders of the same names."""
        other = kit.new_folder("other-machine")
        binds = tuple(dataclasses.replace(bind, source=other) for bind in spec.binds)
        return ordinary(dataclasses.replace(spec, binds=binds), features)

    monkeypatch.setattr(engine, "_run_probe", elsewhere)
    probe = engine.probe()
    assert not probe.usable
    assert "does not see the runner's folders" in probe.problems[0]
