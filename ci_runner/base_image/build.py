"""``ci-runner image build``: a base image from Debian packages, for machines without access to an image registry.

debootstrap carries out a recipe (suite, mirror, packages, CPython installations) in a temporary folder, and the
result goes to ``docker import``. The recipe's digest is a label of the image, so that each recipe is built once.
Needs root, because debootstrap does. The use of images is decided elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.base_image import pythons
from ci_runner.base_image.pythons import Installation
from ci_runner.controller.engine import HOME
from ci_runner.errors import EngineUnavailable, RunnerError, SettingsError
from ci_runner.storage.blobs import UNPRIVILEGED_UID

DEFAULT_TAG: Final = "ci-runner-base:bookworm"
DEFAULT_SUITE: Final = "bookworm"
DEFAULT_MIRROR: Final = "http://deb.debian.org/debian"
#: Labels: the recipe's digest, and the versions of CPython in the image (read by engines).
LABEL_RECIPE: Final = "ci-runner.recipe"
LABEL_PYTHONS: Final = "ci-runner.pythons"

#: `less` and `ps` are on every developer's machine, and test suites call them.
_PACKAGES: Final = (
    "python3",
    "python3-venv",
    "ca-certificates",
    "netbase",
    "tzdata",
    "media-types",
    "less",
    "procps",
)
#: Needed to build a source distribution with C code, or one from a git repository.
_BUILD_PACKAGES: Final = ("gcc", "g++", "libc6-dev", "make", "pkg-config", "python3-dev", "git")
#: Raised when the steps below give another result for the same recipe.
_VERSION: Final = 4
#: Folders to empty, below the tree's root: no container needs their contents.
_EMPTIED: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "tmp",
)

Report = Callable[[str], None]


class BuildFailed(RunnerError):
    """The image could not be made; the text is one line for the operator."""


@dataclass(frozen=True)
class Recipe:
    """All inputs of the image's contents."""

    tag: str = DEFAULT_TAG
    suite: str = DEFAULT_SUITE
    mirror: str = DEFAULT_MIRROR
    compiler: bool = True
    pythons: tuple[Installation, ...] = ()

    @property
    def packages(self) -> tuple[str, ...]:
        """Return the Debian packages, sorted, including those that provide the installations' libraries."""
        names = set(_PACKAGES) | (set(_BUILD_PACKAGES) if self.compiler else set())
        if self.pythons and _host_suite() == self.suite:
            for found in self.pythons:
                outside = [
                    path
                    for path in pythons.libraries(found).values()
                    if not path.is_relative_to(found.prefix)
                ]
                names |= pythons.packages(outside) - {"libc6"}
        return tuple(sorted(names))

    def digest(self, packages: tuple[str, ...]) -> str:
        """Return the digest of the image's contents; the tag does not count."""
        installations = [
            [found.full_version, str(found.prefix), _fingerprint(found)] for found in self.pythons
        ]
        document = [_VERSION, self.suite, self.mirror, list(packages), installations]
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _host_suite() -> str | None:
    """Return the Debian release of this machine, such as ``bookworm``; None on other systems."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return None
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return values.get("VERSION_CODENAME", "").strip('"') or None if values.get("ID") == "debian" else None


def _fingerprint(found: Installation) -> list[int]:
    stat = (found.prefix / "bin" / f"python{found.version}").stat()
    return [stat.st_size, stat.st_mtime_ns]


def build(recipe: Recipe, report: Report, *, force: bool = False, scratch: Path | None = None) -> str:
    """Build the image unless it exists; return its id.

    `report` gets one line per step. `scratch` is the folder for the file tree (about 1 GB). Raises `BuildFailed`,
    `EngineUnavailable` or `SettingsError`.
    """
    _require_docker()
    packages = recipe.packages
    digest = recipe.digest(packages)
    present = _inspect(recipe.tag)
    if present and not force and present.get("label") == digest:
        report(f"{recipe.tag} is up to date ({present['id'][:19]})")
        return present["id"]
    _require_root_and_debootstrap()
    with _tree(scratch) as root:
        report(f"debootstrap {recipe.suite} from {recipe.mirror} ({len(packages)} packages)")
        _debootstrap(recipe, packages, root, report)
        for found in recipe.pythons:
            report(f"Python {found.full_version} from {found.prefix}")
            pythons.copy(found, root)
            if copied := pythons.complete(found, root):
                report(f"  with {', '.join(copied)} of this machine")
        versions = _finish(root, recipe)
        report(f"importing {recipe.tag} (Python {', '.join(versions)})")
        image = _import(recipe.tag, root, {LABEL_RECIPE: digest, LABEL_PYTHONS: ",".join(versions)})
    report(f"{recipe.tag} is {image[:19]}")
    return image


def built() -> list[tuple[str, str]]:
    """Return tag and CPython versions (``3.11,3.12``) of every image built on this machine; empty without Docker."""
    if shutil.which("docker") is None:
        return []
    command = [
        "docker",
        "image",
        "ls",
        "--filter",
        f"label={LABEL_RECIPE}",
        "--format",
        "{{.Repository}}:{{.Tag}}",
    ]
    found = []
    for tag in sorted(set(_run(command, timeout=30).stdout.split())):
        form = '{{index .Config.Labels "' + LABEL_PYTHONS + '"}}'
        done = _run(["docker", "image", "inspect", "--format", form, tag], timeout=30)
        if done.returncode == 0:
            found.append((tag, done.stdout.strip()))
    return found


def _require_docker() -> None:
    if shutil.which("docker") is None:
        raise EngineUnavailable(
            "the docker command is missing: install Docker (on Debian: apt-get install docker.io)"
        )
    done = _run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=30)
    if done.returncode:
        raise EngineUnavailable(f"Docker does not answer: {_last_line(done.stderr)}")


def _require_root_and_debootstrap() -> None:
    if os.geteuid() != 0:
        raise SettingsError(
            "building an image needs root (debootstrap unpacks device files): run it with sudo"
        )
    if shutil.which("debootstrap") is None:
        raise SettingsError("debootstrap is missing: apt-get install debootstrap")


def _inspect(tag: str) -> dict[str, str] | None:
    # An f-string would need to double the braces of the Go template.
    form = '{"id": {{json .Id}}, "label": {{json (index .Config.Labels "%s")}}}' % LABEL_RECIPE  # noqa: UP031
    done = _run(["docker", "image", "inspect", "--format", form, tag], timeout=60)
    if done.returncode:
        return None
    return {key: value or "" for key, value in json.loads(done.stdout).items()}


@contextmanager
def _tree(scratch: Path | None) -> Iterator[Path]:
    """Yield a folder for the tree and remove it afterwards; nothing is ever deleted through a mount below it."""
    folder = Path(tempfile.mkdtemp(prefix="ci-runner-image-", dir=scratch or "/var/tmp"))  # noqa: S108  # made by mkdtemp
    root = folder / "root"
    root.mkdir()
    try:
        yield root
    finally:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((item for item in mounts if item.startswith(f"{folder}/")), reverse=True):
            _run(["umount", mount], timeout=60)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        if not any(item.startswith(f"{folder}/") for item in mounts):
            shutil.rmtree(folder)


def _debootstrap(recipe: Recipe, packages: tuple[str, ...], root: Path, report: Report) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", recipe.suite]
    lines = []
    with subprocess.Popen(
        [*command, str(root), recipe.mirror],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith(
                ("I: Unpacking the base", "I: Configuring the base", "I: Resolving dependencies of req")
            ):
                report(f"  {line[3:].strip()}")
    if process.returncode:
        telling = [line for line in lines if line.startswith(("E:", "W: Failure"))] or lines or ["no output"]
        raise BuildFailed(f"debootstrap failed: {telling[-1]}")


def _finish(root: Path, recipe: Recipe) -> tuple[str, ...]:
    """Remove unneeded files from the tree and give it a `python`; return its versions of CPython."""
    for name in _EMPTIED:
        folder = root / name
        for item in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_file() and path.name != "copyright":
            path.unlink()
    for log in (root / "var/log").rglob("*"):
        if log.is_file():
            log.unlink()
    _name_the_user(root)
    python = root / "usr/local/bin/python"
    if not python.is_symlink():
        python.parent.mkdir(parents=True, exist_ok=True)
        python.symlink_to("/usr/bin/python3")
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = pythons.chroot(root, "/usr/bin/python3", "-I", "-c", code)
    if done.returncode:
        raise BuildFailed(f"the image's python3 does not start: {_last_line(done.stderr)}")
    versions = {done.stdout.strip()} | {found.version for found in recipe.pythons}
    return tuple(sorted(versions, key=lambda text: int(text.split(".")[1])))


def _name_the_user(root: Path) -> None:
    """Give the uid of jobs a name: `pwd.getpwuid` and `Path.owner` fail without one."""
    for name, line in (
        ("passwd", f"runner:x:{UNPRIVILEGED_UID}:{UNPRIVILEGED_UID}:runner:{HOME}:/bin/sh\n"),
        ("group", f"runner:x:{UNPRIVILEGED_UID}:\n"),
    ):
        with (root / "etc" / name).open("a") as file:
            file.write(line)


def _import(tag: str, root: Path, labels: dict[str, str]) -> str:
    """Stream the tree into ``docker import``; return the image's id."""
    changes = [f'LABEL {name}="{value}"' for name, value in labels.items()]
    changes += [
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV LANG=C.UTF-8",
        'CMD ["python3"]',
    ]
    command = ["docker", "import"]
    for change in changes:
        command += ["--change", change]
    tar = [
        "tar",
        "--create",
        "--numeric-owner",
        "--sort=name",
        "--exclude=./dev/*",
        "--exclude=./proc/*",
        "--directory",
    ]
    with (
        tempfile.TemporaryFile() as tar_errors,
        subprocess.Popen([*tar, str(root), "."], stdout=subprocess.PIPE, stderr=tar_errors) as packer,
        subprocess.Popen(
            [*command, "-", tag],
            stdin=packer.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as importer,
    ):
        assert packer.stdout is not None
        packer.stdout.close()  # leave the pipe to the importer: its death then ends the packer
        timer = threading.Timer(1800, importer.kill)
        timer.start()
        try:
            output, errors = importer.communicate()
        finally:
            timer.cancel()
    if importer.returncode or packer.returncode:
        raise BuildFailed(f"docker import failed: {_last_line(errors) or 'tar could not read the tree'}")
    return output.strip()


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:g} s")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
