"""What builds leave behind: hostile projects, dependencies and images, in real containers, against the controller.

Each test lets foreign code run where it may run, in a build, and do its worst to what the controller will mount, read,
remove or publish later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.package_index import host_address, sdist, serve, wheel
from support.preparer import Bench, disposable_engine
from support.waiting import files_named, wait_until

from ci_runner.controller.engine import Bind, ContainerSpec
from ci_runner.controller.engines.docker import allowed_hosts
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.errors import EnvironmentFailed, RunnerError
from ci_runner.model.job import Job
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = pytest.mark.docker

#: A build backend without dependencies, whose hooks run code of the test's; `background` goes on after the hook.
BACKEND = """
import glob, json, os, subprocess, sys, textwrap, time, zipfile

def background(code):
    code = "import glob, json, os, sys, time\\n" + textwrap.dedent(code)
    nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **nothing)

def wheel(folder):
    name = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as z:
        z.writestr("{name}_module.py", "x = 1")
        z.writestr("{name}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        z.writestr("{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        z.writestr("{name}-1.0.dist-info/RECORD", "")
    return name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    on_wheel()
    return wheel(folder)

def build_editable(folder, config_settings=None, metadata_directory=None):
    on_editable()
    return wheel(folder)
"""
TOML = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
DYNAMIC = TOML + '[project]\nname = "hostile"\nversion = "1.0"\ndynamic = ["dependencies"]\n'
STATIC = TOML + '[project]\nname = "hostile"\nversion = "1.0"\ndependencies = []\n'


def backend(name: str, on_wheel: str = "pass", on_editable: str = "pass") -> str:
    indented = {
        hook: code.strip().replace("\n", "\n    ")
        for hook, code in (("on_wheel", on_wheel), ("on_editable", on_editable))
    }
    hooks = "".join(f"\ndef {hook}():\n    {code}\n" for hook, code in indented.items())
    return BACKEND.replace("{name}", name) + hooks


def project(on_wheel: str = "pass", on_editable: str = "pass", toml: str = DYNAMIC) -> dict[str, str]:
    """A package whose build does the one when its dependencies are asked for, and the other when it is installed."""
    return {
        "pyproject.toml": f'{toml}description = "{uuid.uuid4().hex}"\n',  # else it is the same to its user's caches
        "backend.py": backend("hostile", on_wheel, on_editable),
        "src/hostile.py": "",
        "test_a.py": "def test_a(): pass\n",
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the package index."""
    folder = tmp_path_factory.mktemp("index") / "root"
    wheel(folder, "pytest", "99.0", {"pytest.py": "marker = 'private'\n"})
    wheel(folder, "evil", "1.0", {"evil.py": ""})
    return folder


@pytest.fixture(scope="module")
def index(docker_engine: str, root: Path) -> Iterator[EnvironmentSettings]:
    with serve(root, host_address()) as (url, authority):
        yield EnvironmentSettings(index_url=url, ca_bundle=authority, cache_size=1)


@pytest.fixture(scope="module", params=["as root", "as one user"])
def engine(
    request: pytest.FixtureRequest, index: EnvironmentSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerEngine]:
    """An engine whose containers run as another user than the runner, and one whose run as the same."""
    if request.param == "as root" and os.geteuid() != 0:
        pytest.skip("the runner is not root")
    uid, gid = (None, None) if request.param == "as root" else (os.geteuid(), os.getegid())
    scratch = tmp_path_factory.mktemp("scratch")
    with disposable_engine(scratch, allowed_hosts.named(index), uid=uid, gid=gid) as found:
        yield found
        for seen in found.list():
            found.remove(seen.id)


@pytest.fixture
def bench(
    engine: DockerEngine,
    index: EnvironmentSettings,
    docker_engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    if engine.profile.uid == os.geteuid():
        for module in ("ci_runner.controller.environments.preparer", "support.preparer"):
            monkeypatch.setattr(f"{module}.job_owner", lambda: None)
    return Bench(
        tmp_path / "data", engine, docker_engine, index, {"prepare_timeout": 600.0}, install_id=engine.install
    )


def engine_of(bench: Bench) -> DockerEngine:
    assert isinstance(bench.engine, DockerEngine)
    return bench.engine


def only_as_root(bench: Bench) -> None:
    """One variant is enough for what users and owners do not change."""
    if engine_of(bench).profile.uid == os.geteuid():
        pytest.skip("the same for a runner that is one user with its jobs")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the host with an old file, which nobody here has any business with."""
    folder = tmp_path / "victim"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "secret").write_text("secret")
    (folder / "secret").write_text("secret")
    old = time.time() - 86400
    for path in (folder / "inner" / "secret", folder / "inner", folder / "secret", folder):
        os.utime(path, (old, old))
    return folder


def contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def environment(prepared: Prepared) -> Path:
    return next(bind.source for bind in prepared.binds if bind.target == "/ci/env")


def scope(prepared: Prepared) -> str:
    return environment(prepared).parents[1].name


def prepare(bench: Bench, files: dict[str, str], user: str, **options: Any) -> Prepared:
    return bench.prepare(bench.submit(files, user, **options))[0]


class Attack:
    """A build of a hostile project that goes on until it is told to end."""

    def __init__(self, bench: Bench, code: str, user: str) -> None:
        loop = (
            "folder = next(each for each in ('/ci/store', '/ci/store/cache') if os.access(each, os.W_OK))\n"
            f"open(folder + '/ATTACKING', 'w').close()\nwhile True:\n    time.sleep(0.001)\n    {code}"
        )
        job = bench.submit(project(loop), user)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(bench, job))
        self._bench = bench

    def _run(self, bench: Bench, job: Job) -> None:
        with contextlib.suppress(RunnerError):
            bench.preparer.prepare(job, log=lambda _: None, building=lambda: None, stopping=self._stop.is_set)

    def __enter__(self) -> Attack:
        self._thread.start()
        wait_until(lambda: files_named("ATTACKING", self._bench.data), 60, what="the hostile build")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)


def test_a_build_cannot_turn_the_mount_of_another_one_into_a_link(bench: Bench, docker_engine: str) -> None:
    """Into the environments that all users share, in the moment before the engine mounts it."""
    shared = prepare(bench, {"requirements.txt": "pytest"}, "bob")
    assert scope(shared) == "shared"
    files = {"requirements.txt": "pytest\nevil"}
    own_image = Bench(bench.data, bench.engine, "another-default:1", bench.environments)
    own = prepare(own_image, files, "mallory", image=docker_engine)
    assert scope(own) == "mallory"
    before = contents(bench.data / "environments" / "shared")
    code = f"""
    for folder in ("/ci/store", "/ci/store/new"):
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            mine = name in ("new", "cache") or name.startswith("taken") or os.path.islink(path)
            if os.path.isdir(path) and not mine:
                os.rename(path, folder + "/taken-" + str(time.time()))
                os.symlink("../../../shared/envs/{shared.key}", path)
    """
    with Attack(bench, code.strip(), "mallory"):
        job = replace(own_image.submit(files, "mallory", image=docker_engine), environment=own.key)
        own_image.preparer.compile_bytecode(job, lambda: False)
    assert contents(bench.data / "environments" / "shared") == before


def test_a_link_in_place_of_a_folder_of_the_store_is_not_emptied(bench: Bench, victim: Path) -> None:
    """Neither what the eviction takes for leftovers nor what it takes for a package cache."""
    target = str(victim)
    code = f"""
for name in ("new", "cache", "environment", "venv"):
    path = "/ci/store/" + name
    try:
        if os.path.lexists(path):
            os.rename(path, path + "-old")
        os.symlink({target!r}, path)
    except OSError:
        pass  # older versions let only root do so, where root is another
for name in ("new", "cache"):
    for inner in ("a", "b"):
        try:
            os.symlink({target!r}, "/ci/store/" + name + "/" + inner)
        except OSError:
            pass
with open("/ci/spool/planted", "w") as file:
    file.write('{{"ok": false, "error": "planted"}}')
os.rename("/ci/spool/planted", "/ci/spool/result.json")
time.sleep(60)
"""
    before = contents(victim)
    with pytest.raises(EnvironmentFailed, match="planted"):
        prepare(bench, project(code), "mallory")
    old = time.time() - 86400
    for path in bench.data.glob("environments/mallory/**"):
        if not path.is_symlink():
            os.utime(path, (old, old))
    bench.preparer.evict(frozenset())
    assert contents(victim) == before
    prepared = prepare(bench, project(), "mallory")  # and the next build finds no link in its way
    assert contents(victim) == before
    assert environment(prepared).is_dir()


def test_a_link_in_place_of_a_layer_is_not_mounted(bench: Bench, victim: Path) -> None:
    only_as_root(bench)
    code = f"""
for path in [*glob.glob("/ci/store/venv"), *glob.glob("/ci/store/new/*/venv")]:
    os.rename(path, path + "-away")
    os.symlink({str(victim)!r}, path)
with open("/ci/spool/planted", "w") as file:
    file.write('{{"ok": true}}')
os.rename("/ci/spool/planted", "/ci/spool/result.json")
time.sleep(60)
"""
    job = bench.submit(project(on_editable=code, toml=STATIC), "mallory")
    with pytest.raises(EnvironmentFailed, match="created no environment"):
        bench.prepare(job)
    layers = bench.data / "environments" / "mallory" / "layers"
    assert list(layers.iterdir()) == []


def test_a_link_that_a_dependency_leaves_in_an_environment_is_not_followed(
    bench: Bench, root: Path, victim: Path, docker_engine: str
) -> None:
    """Where older versions had a mark of their own, which was written through it."""
    only_as_root(bench)
    code = f"""
background('''
while True:
    for found in glob.glob("/ci/store/environment") + glob.glob("/ci/store/new/*"):
        if os.path.isdir(found + "/bin") and not os.path.lexists(found + "/.bytecode"):
            os.symlink({str(victim / "planted")!r}, found + "/.bytecode")
''')
"""
    sdist(root, "planter", "1.0", {"pyproject.toml": TOML, "backend.py": backend("planter", code)})
    files = {"requirements.txt": "pytest\nplanter"}
    # In an image that the user named all is done in one container.
    own_image = Bench(bench.data, bench.engine, "another-default:1", bench.environments)
    job = own_image.submit(files, "mallory", image=docker_engine)
    prepared = own_image.prepare(job)[0]
    assert (environment(prepared) / ".bytecode").is_symlink()
    own_image.preparer.compile_bytecode(replace(job, environment=prepared.key), lambda: False)
    assert not (victim / "planted").exists()


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("line", "own"),
    [
        pytest.param("--extra-index-url https://127.0.0.1:1/simple", False, id="an index"),
        pytest.param("--find-links /ci/spool", False, id="links"),
        pytest.param("-r /ci/spool/job.json", False, id="another file"),
        pytest.param(
            f"evil @ https://127.0.0.1:1/evil-1-py3-none-any.whl --hash=sha256:{64 * '0'}", True, id="a URL"
        ),
        pytest.param("evil==1.0", True, id="without hashes"),
    ],
)
def test_a_forged_lock_makes_no_shared_environment(bench: Bench, root: Path, line: str, own: bool) -> None:
    """`own`: it may be what a project asks for, and fails in the user's own scope at most."""
    only_as_root(bench)
    file = root / "simple" / "pytest" / "pytest-99.0-py3-none-any.whl"
    pin = f"pytest==99.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    lock = {"text": f"{pin}\n{line}\n", "locals": ["/etc"], "hashed": True}
    forged = f"""
result = {{"ok": True, "python": "3.11.0", "seconds": 1.0, "lock": {lock!r}}}
with open("/ci/spool/forged", "w") as file:
    json.dump(result, file)
os.rename("/ci/spool/forged", "/ci/spool/result.json")
time.sleep(60)
"""
    if own:
        with contextlib.suppress(EnvironmentFailed):
            assert scope(prepare(bench, project(forged), "mallory")) == "mallory"
    else:
        with pytest.raises(
            EnvironmentFailed, match=r"the lock has a line that is not a plain requirement: [^\n]*$"
        ):
            prepare(bench, project(forged), "mallory")
    assert list((bench.data / "environments" / "shared").glob("envs/*")) == []


def test_what_a_job_got_writable_by_mistake_it_could_not_write(bench: Bench, docker_engine: str) -> None:
    """Shared environments belong to another user than jobs and users' builds."""
    only_as_root(bench)
    engine = engine_of(bench)
    shared = environment(prepare(bench, {"requirements.txt": "pytest"}, "bob"))
    owners = {path.lstat().st_uid for path in (shared, *shared.rglob("*"))}
    assert owners <= {0, 65533}
    assert [path for path in shared.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022] == []
    program = (
        "import glob, os, sys\ndone = []\n"
        "for path in glob.glob('/ci/env/**', recursive=True):\n"
        "    if os.path.islink(path): continue\n"
        "    if os.access(path, os.W_OK): done.append(path)\n"
        "sys.exit(bool(done))\n"
    )
    spec = ContainerSpec(
        name=f"writes-{engine.install}",
        image_id=engine.image(docker_engine).id,
        argv=("python3", "-I", "-c", program),
        role="test",
        job_id="writes",
        attempt=1,
        binds=(Bind(shared, "/ci/env", read_only=False),),
        network="none",
    )
    container = bench.engine.create(spec)
    try:
        bench.engine.start(container)

        def code() -> int | None:
            seen = bench.engine.inspect(container)
            assert seen is not None
            return None if seen.exit_code is None else seen.exit_code + 1000

        assert wait_until(code, 60, what="the end of the container") == 1000
    finally:
        bench.engine.remove(container)


def test_a_build_sees_nothing_of_other_builds(bench: Bench) -> None:
    """Two builds of one user at the same time share no writable folder."""
    only_as_root(bench)
    with Attack(bench, "pass", "mallory"):
        look = """
found = sorted(name for _, _, names in os.walk("/ci") for name in names if name == "ATTACKING")
with open("/ci/spool/seen", "w") as file:
    json.dump({"ok": False, "error": "seen: " + repr(found)}, file)
os.rename("/ci/spool/seen", "/ci/spool/result.json")
time.sleep(60)
"""
        with pytest.raises(EnvironmentFailed, match=r"seen: \[\]"):
            prepare(bench, project(look), "mallory")


def rewriter(root: Path, name: str, code: str) -> None:
    """A wheel whose files take the place of pytest's rewriter, which byte code is made with."""
    wheel(
        root,
        name,
        "1.0",
        {
            f"{name}.py": "",
            "_pytest/__init__.py": "",
            "_pytest/assertion/__init__.py": "",
            "_pytest/assertion/rewrite.py": f"import json, os, signal, socket, sys, time\n{code}",
            f"{name}-1.0.dist-info/entry_points.txt": f"[pytest11]\n{name} = {name}\n",
        },
    )


def compile_after(bench: Bench, requirements: str, user: str) -> Path:
    """Prepare a job, and make the byte code of its environment as after its end; return the environment."""
    job = bench.submit({"requirements.txt": requirements}, user)
    prepared = bench.prepare(job)[0]
    stop = threading.Event()
    compiling = threading.Thread(
        target=lambda: bench.preparer.compile_bytecode(replace(job, environment=prepared.key), stop.is_set)
    )
    compiling.start()
    try:
        wait_until(lambda: not compiling.is_alive(), 40, what="the end of making byte code")
    finally:
        stop.set()
        compiling.join(60)
    return environment(prepared)


def test_byte_code_is_no_way_into_the_environments_of_others(bench: Bench, root: Path) -> None:
    """An environment's own rewriter makes its byte code, without a network, and reaches no other environment."""
    only_as_root(bench)
    others = environment(prepare(bench, {"requirements.txt": "pytest"}, "bob"))
    before = {path: path.read_bytes() for path in others.rglob("*") if path.is_file()}
    code = """
packages = sys.argv[2] + "/lib/python{}.{}/site-packages/__pycache__".format(*sys.version_info)
os.makedirs(packages, exist_ok=True)
for name in ("pytest", "_virtualenv"):
    with open(packages + "/" + name + ".cpython-311.pyc", "w") as file: file.write("poison")
found = {"networks": [name for _, name in socket.if_nameindex()], "caches": os.listdir("/ci/store"), "uid": os.getuid()}
with open(packages + "/seen.pyc", "w") as file: json.dump(found, file)
"""
    rewriter(root, "poison", code)
    own = compile_after(bench, "pytest\npoison", "mallory")
    assert own.parent == others.parent, "both are shared"
    [seen] = own.rglob("seen.pyc")
    found = json.loads(seen.read_text())
    assert found == {"networks": ["lo"], "caches": ["lib"], "uid": 65533}
    assert {path: path.read_bytes() for path in others.rglob("*") if path.is_file()} == before
    assert files_named("seen.pyc", bench.data) == [seen]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        pytest.param(
            "frozen", "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)", "took longer", id="time"
        ),
        pytest.param(
            "flood",
            "with open(sys.argv[2] + '/big', 'wb') as file:\n"
            "    os.unlink(file.name)\n"
            "    for _ in range(32): file.write(bytes(1 << 20))\n"
            "    file.flush()\n"
            "    time.sleep(600)\n",
            "wrote more",
            id="disk",
        ),
    ],
)
def test_making_byte_code_is_bounded(
    bench: Bench,
    root: Path,
    name: str,
    code: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever an environment's rewriter does: what it runs in ends, from outside, and holds no place of builds."""
    only_as_root(bench)
    if name == "frozen":
        # The builder itself would take two minutes; it is stopped after some seconds.
        monkeypatch.setattr("ci_runner.controller.environments.bytecode._GRACE", -105.0)
    else:
        monkeypatch.setattr("ci_runner.controller.environments.bytecode._MOST_BYTES", 16 << 20)
    rewriter(root, name, code)
    compile_after(bench, f"pytest\n{name}", "mallory")
    assert words in caplog.text
    assert bench.preparer.in_use() == frozenset()
    assert bench.engine.list() == []
