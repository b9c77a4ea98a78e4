"""CPython installations of this machine: found by version or path, and copied into an image's file tree.

An installation prefix (pyenv's, uv's, a hand-built one) finds itself by its executable's location, so it may be
copied to ``/opt/python/<version>`` together with its shared libraries. Parts that test containers never use are left
out. `ci_runner.base_image.build` makes an image from the tree.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.errors import SettingsError

#: Folder of installations in an image.
HOME: Final = "/opt/python"
#: Ordinary test suites need these modules; the others are optional in CPython, too.
REQUIRED_MODULES: Final = ("ssl", "zlib", "ctypes", "hashlib", "socket", "select", "subprocess", "venv")
#: Parts of the standard library that are not copied, below ``lib/python3.X``.
_LEFT_OUT: Final = (
    "test",
    "idlelib",
    "turtledemo",
    "tkinter",
    "site-packages",
    "__pycache__",
    "lib2to3/tests",
)
_VERSION: Final = re.compile(r"3\.\d{1,2}(\.\d+)?\Z")
#: Names of installations and commands of final releases: no ``3.14.0rc1``, no ``3.13.0t``.
_NAMED: Final = re.compile(r"(?:cpython-|python)?3\.(\d{1,2})(?:\.\d+)?(?:-.*)?\Z")


@dataclass(frozen=True)
class Installation:
    """A CPython prefix of this machine."""

    prefix: Path
    #: ``3.12``.
    version: str
    #: ``3.12.1``.
    full_version: str

    @property
    def target(self) -> str:
        """Return its path in the image."""
        return f"{HOME}/{self.version}"


def find(wanted: str, environ: Mapping[str, str] = os.environ) -> Installation:
    """Return the installation that `wanted` names: a prefix's path, or a version; raises `SettingsError`."""
    if "/" in wanted:
        return _inspect(Path(os.path.expanduser(wanted)))  # noqa: PTH111  leaves unknown users alone
    if not _VERSION.match(wanted):
        raise SettingsError(f"--python {wanted}: give a version such as 3.12 or the path of an installation")
    roots = _roots(wanted, environ)
    if wanted.count(".") == 2:
        roots[0] = (roots[0][0], wanted)
    for root, pattern in roots:
        found = [path for path in root.glob(pattern) if (path / "bin").is_dir()] if root.is_dir() else []
        for path in sorted(found, key=_numbers, reverse=True):
            return _inspect(path)
    if (Path("/usr/local/bin") / f"python{wanted}").exists():
        return _inspect(Path("/usr/local"), wanted)
    raise SettingsError(
        f"--python {wanted}: no such CPython found ({', '.join(str(root) for root, _ in roots)}, /usr/local); "
        "install it, or give the path of an installation"
    )


def installed(environ: Mapping[str, str] = os.environ) -> tuple[Installation, ...]:
    """Return the installation that `find` would choose for each version (``3.12``) of this machine, oldest first.

    Leaves out those that do not start, or lack modules that test suites need.
    """
    names = {path.name for root, pattern in _roots("3", environ) for path in root.glob(pattern)}
    names |= {path.name for path in Path("/usr/local/bin").glob("python3.*")}
    versions = {f"3.{match[1]}" for name in names if (match := _NAMED.match(name))}
    found = []
    for version in sorted(versions, key=lambda text: int(text[2:])):
        with contextlib.suppress(SettingsError):
            candidate = find(version, environ)
            if _is_whole(candidate):
                found.append(candidate)
    return tuple(found)


def _is_whole(found: Installation) -> bool:
    python = found.prefix / "bin" / f"python{found.version}"
    command = [str(python), "-I", "-c", "import " + ", ".join(REQUIRED_MODULES)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def _roots(wanted: str, environ: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Return folders with installations, each with the pattern of a version's names: ``3`` or ``3.12``."""
    home = Path(environ.get("HOME") or os.devnull)
    return [
        (Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions", f"{wanted}.*"),
        (Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"), f"cpython-{wanted}*"),
        (Path(HOME), wanted if "." in wanted else f"{wanted}.*"),
    ]


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.name)]


def _inspect(prefix: Path, version: str | None = None) -> Installation:
    """Ask the prefix's own interpreter for its version; raises `SettingsError`."""
    executable = prefix / "bin" / (f"python{version}" if version else "python3")
    if not executable.exists():
        raise SettingsError(f"--python {prefix}: no CPython installation (it has no bin/{executable.name})")
    code = "import sys, platform; print(platform.python_version(), sys.prefix == sys.base_prefix, sys.base_prefix)"
    try:
        done = subprocess.run(
            [executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(f"--python {prefix}: its python does not start ({error})") from error
    full, plain, base = done.stdout.strip().split(" ", 2)
    if plain != "True":
        raise SettingsError(f"--python {prefix}: a virtual environment; give its base installation, {base}")
    return Installation(Path(base).resolve(), ".".join(full.split(".")[:2]), full)


def libraries(found: Installation) -> dict[str, Path]:
    """Return soname → file on this machine for every shared library of the installation."""
    files = [found.prefix / "bin" / f"python{found.version}"]
    dynload = found.prefix / "lib" / f"python{found.version}" / "lib-dynload"
    files += [
        path for path in sorted(dynload.glob("*.so")) if not path.name.startswith(("_tkinter", "_test"))
    ]
    listing = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    return {name: Path(path) for name, path in re.findall(r"^\s*(\S+) => (/\S+) \(0x", listing, re.MULTILINE)}


def packages(files: Iterable[Path]) -> set[str]:
    """Return the Debian packages of this machine that own `files`; skip files without a package."""
    paths = {str(path) for path in files}
    # With merged /usr, packages may list their files by either name.
    paths |= {path.removeprefix("/usr") for path in paths} | {
        f"/usr{path}" for path in paths if path.startswith("/lib")
    }
    if not paths or shutil.which("dpkg") is None:
        return set()
    # Not every soname is found: packages may list only the versioned file.
    listing = subprocess.run(
        ["dpkg", "-S", *sorted(paths)], capture_output=True, text=True, check=False
    ).stdout
    return {line.split(":")[0] for line in listing.splitlines() if ": /" in line and "diversion" not in line}


def copy(found: Installation, root: Path) -> None:
    """Copy the installation into the file tree `root`, without the parts that test containers never use."""
    target = root / found.target.lstrip("/")
    library = f"python{found.version}"
    (target / "bin").mkdir(parents=True)
    executable = found.prefix / "bin" / library
    shutil.copy2(executable.resolve(), target / "bin" / library)
    (target / "bin" / "python3").symlink_to(library)
    (target / "bin" / "python").symlink_to(library)

    def unwanted(folder: str, names: list[str]) -> set[str]:
        below = os.path.relpath(folder, found.prefix / "lib" / library)
        return {
            name
            for name in names
            if os.path.normpath(f"{below}/{name}") in _LEFT_OUT
            or name == "__pycache__"
            or name.endswith((".a", ".pyc"))
            or name.startswith("_tkinter")
        }

    shutil.copytree(found.prefix / "lib" / library, target / "lib" / library, symlinks=True, ignore=unwanted)
    (target / "lib" / library / "site-packages").mkdir()
    for shared in (found.prefix / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, target / "lib" / shared.name, follow_symlinks=False)
    headers = found.prefix / "include" / library
    if headers.is_dir():
        shutil.copytree(headers, target / "include" / library, symlinks=True)
    (target / "lib/pkgconfig").mkdir()
    for described in (found.prefix / "lib/pkgconfig").glob(f"python-{found.version}*.pc"):
        shutil.copy2(described, target / "lib/pkgconfig")
    _relocate(found, target)
    links = root / "usr/local/bin"
    links.mkdir(parents=True, exist_ok=True)
    # Do not use a link: a virtual environment made through it would look for its standard library next to the link.
    command = links / library
    command.write_text(f'#!/bin/sh\nexec {found.target}/bin/{library} "$@"\n')
    command.chmod(0o755)


def _relocate(found: Installation, target: Path) -> None:
    """Name the place in the image where the copy describes itself for builds of extension modules.

    Meson, CMake and `python-config` look there for headers and the shared library.
    """
    library = target / "lib" / f"python{found.version}"
    descriptions = [*library.glob("_sysconfigdata*.py"), *(target / "lib/pkgconfig").iterdir()]
    descriptions += [
        path for name in ("Makefile", "python-config.py") for path in library.glob(f"config-*/{name}")
    ]
    built_for = {str(found.prefix)}
    for path in library.glob("_sysconfigdata*.py"):
        built_for.update(re.findall(r"^ 'prefix': '(/[^']+)'", path.read_text("utf-8"), re.MULTILINE))
    pattern = re.compile("|".join(f"{re.escape(prefix)}(?![\\w.-])" for prefix in sorted(built_for)))
    for path in descriptions:
        text = path.read_text("utf-8")
        path.unlink()  # it may be a link to a file of this machine
        path.write_text(pattern.sub(lambda _: found.target, text), "utf-8")
        path.chmod(0o644)


def complete(found: Installation, root: Path) -> list[str]:
    """Make a copied installation start in `root`; return the names of copied libraries.

    Its own libraries are found, missing ones are copied, and bytecode is written (containers cannot write it). Raises
    `SettingsError`.
    """
    target = root / found.target.lstrip("/")
    conf = root / "etc/ld.so.conf.d" / f"ci-runner-python-{found.version}.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(f"{found.target}/lib\n{found.target}/lib/ci-runner\n")
    extra = target / "lib/ci-runner"
    extra.mkdir()
    chroot(root, "ldconfig")
    present = set(re.findall(r"^\s*(\S+) \(", chroot(root, "ldconfig", "-p").stdout, re.MULTILINE))
    copied = []
    for name, path in sorted(libraries(found).items()):
        if name not in present:
            shutil.copy2(path.resolve(), extra / name)
            copied.append(name)
    chroot(root, "ldconfig")
    python = f"{found.target}/bin/python{found.version}"
    check = chroot(root, python, "-I", "-c", "import " + ", ".join(REQUIRED_MODULES))
    if check.returncode:
        lines = check.stderr.strip().splitlines() or [f"exit code {check.returncode}"]
        raise SettingsError(f"Python {found.full_version} does not work in the image: {lines[-1]}")
    chroot(root, python, "-I", "-m", "compileall", "-q", "-j0", f"{found.target}/lib/python{found.version}")
    return copied


def chroot(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the tree in the tree; the caller checks its output and exit code."""
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        ["chroot", root, *command], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
