"""The main process of a build container: resolves, installs and builds with uv, as listed in steps.

Run as ``<python> -I -S /ci/tools/builder.py /ci/spool`` with the base image's own interpreter (standard library,
CPython 3.8 or newer). `job.json` holds the steps; output for the user is written to `output` as it arrives, and
`result.json` appears, complete, when all steps are done or one failed. The controller decides which steps there are,
what they can access and how their results are used; it does not trust this process.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal, TypedDict

    class Plan(TypedDict):
        """What to resolve, as `ci_runner.dependencies.install_plan` has it."""

        source: str
        install: bool
        name: str | None
        index_options: list[str]
        requirements: list[str]
        constraints: list[str]
        pytest: str
        adds_pytest: bool
        project_file: str
        extras: list[str]
        guessed_extras: list[str]
        groups: list[str]
        all_packages: bool

    class Step(TypedDict, total=False):
        """One step; each kind has some of the members."""

        do: Literal["compile", "sync", "layer", "bytecode"]
        env: dict[str, str]
        plan: Plan
        lock: str | None
        stage: str
        index_options: list[str]
        pip: bool
        home: str | None
        project_python: str
        environment: str
        projects: list[str]
        source: str
        target: str
        seconds: float

    class Job(TypedDict, total=False):
        """The content of `job.json`, which the controller writes."""

        protocol: int
        uv: str
        may_build: bool
        cwd: str
        env: dict[str, str]
        netrc: str | None
        steps: list[Step]


PROTOCOL = 1
#: Characters of a failed command's output that the result repeats.
_OUTPUT_LIMIT = 16_000

_ERROR = re.compile(r"^\s*(?:error:|×|x )\s*", re.IGNORECASE)
#: A line of a build that names its error, and lines that only say that there was one.
_NAMES_ERROR = re.compile(
    r"\b(?:[A-Z]\w*(?:Error|Exception)|ERROR|[Ee]rror|fatal)\b\W|not found|No such file"
)
_SAYS_NOTHING = re.compile(
    r"subprocess-exited|CalledProcessError|exit (?:status|code)|returned non-zero|build stopped|"
    r"make(?:\[\d+\])?: \*\*\*|Failed building|originates from a subprocess"
)
#: The command by which meson-python's loader builds again.
_NINJA = re.compile(r"\['[^'\n]*\bninja'[^\]\n]*\]")
_LOCAL = re.compile(r"^(?:-e\s+)?(?:[^\s;#]+\s*@\s*)?(file://[^\s;#]+|\.{1,2}/[^\s;#]*|/[^\s;#]*)")


class StepFailed(Exception):
    """A step failed; the text is the cause in one line."""


class Builder:
    """Runs the steps of one spool folder."""

    def __init__(self, folder: str, job: Job) -> None:
        self._folder = folder
        self._uv = job["uv"]
        #: Whether the scope's store is mounted: only then may foreign code run.
        self._may_build = bool(job["may_build"])
        self._cwd = job["cwd"]
        self._env = dict(os.environ)
        self._env.update(job["env"])
        self._private = None
        netrc = job.get("netrc")
        if netrc is not None:
            self._private = tempfile.mkdtemp()
            self._env.update(write_netrc(self._private, netrc))
        self._output = os.open(
            self._path("output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._last = ""
        self._lock_text = ""
        self.result: dict[str, object] = {"python": "{}.{}.{}".format(*sys.version_info[:3])}

    def run(self, steps: list[Step]) -> None:
        """Run all steps in order, and store the outcome in `result`."""
        began = time.monotonic()
        try:
            for step in steps:
                self._step_env = {**self._env, **step.get("env", {})}
                getattr(self, "_" + step["do"])(step)
            self.result["ok"] = True
        except StepFailed as error:
            self.result.update(ok=False, error=str(error), output=self._last[-_OUTPUT_LIMIT:])
        except Exception as error:
            self.result.update(ok=False, error=f"{type(error).__name__}: {error}")
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
        self.result["seconds"] = round(time.monotonic() - began, 3)

    def write_result(self) -> None:
        """Write the result atomically."""
        with open(self._path("result.json.tmp"), "w", encoding="utf-8") as file:
            json.dump(self.result, file)
        os.rename(self._path("result.json.tmp"), self._path("result.json"))

    # -- compile
    def _compile(self, step: Step) -> None:
        """Resolve the plan's sources to a lock: every distribution with its version and hashes."""
        plan = step["plan"]
        variants = _variants(plan)
        for number, variant in enumerate(variants, 1):
            try:
                lock = self._lock(variant, quiet=number < len(variants))
                break
            except StepFailed as error:
                if number == len(variants) or not _worth_another(str(error), variant):
                    self.write_message(self._last)
                    raise
        lines = entries(lock)
        if (
            plan["install"] and plan["name"]
        ):  # dependents of the project get the project itself, not a release of it
            lines = [line for line in lines if _name(line) != _normalized(plan["name"])]
        self._lock_text = "".join(f"{line}\n" for line in lines)
        self.result["lock"] = {"text": self._lock_text}

    def _lock(self, plan: Plan, quiet: bool) -> str:
        requirements = [*plan["index_options"], *plan["requirements"]]
        if plan["source"] == "uv.lock":
            exported = self._export(plan, quiet)
            if not plan["requirements"] and _has_pytest(exported):
                return exported
            missing = [] if _has_pytest(exported) else [plan["pytest"]]
            # Entries of the lock stay unchanged; only missing ones are resolved.
            requirements += [*_pinned(exported), *missing]
        command = [self._uv, "pip", "compile", "--python", sys.executable, "--no-header", "--no-annotate"]
        command += ["--generate-hashes", "--no-strip-markers", "--output-file", self._path("compiled.txt")]
        if plan["source"] == "project":
            command.append(plan["project_file"])
            for extra in plan["extras"]:
                command += ["--extra", extra]
        if plan["source"] != "uv.lock":
            for group in plan["groups"]:
                command += ["--group", group]
        if requirements:
            command.append(self._write("requirements.in", requirements))
        if plan["constraints"]:
            command += ["--constraint", self._write("constraints.txt", plan["constraints"])]
        self.uv(command, quiet=quiet)
        compiled = self._read("compiled.txt")
        if _has_pytest(compiled):
            return compiled
        # The project's own metadata did not include pytest after all.
        command.append(self._write("pytest.in", [plan["pytest"]]))
        self.uv(command, quiet=quiet)
        return self._read("compiled.txt")

    def _export(self, plan: Plan, quiet: bool) -> str:
        command = [self._uv, "export", "--frozen", "--no-emit-project", "--no-header", "--no-annotate"]
        command += ["--format", "requirements.txt", "--python", sys.executable, "--no-default-groups"]
        command += ["--output-file", self._path("exported.txt")]
        command += ["--all-packages"] if plan["all_packages"] else []
        for extra in plan["extras"]:
            command += ["--extra", extra]
        for group in plan["groups"]:
            command += ["--group", group]
        self.uv(command, quiet=quiet)
        return self._read("exported.txt")

    # -- sync
    def _sync(self, step: Step) -> None:
        """Install a lock as a relocatable virtual environment at ``stage``."""
        lock = step.get("lock") or without_folders(self._lock_text, self._cwd)
        stage = step["stage"]
        python = os.path.join(stage, "bin", "python")
        self._venv(stage)
        listed = self._write("sync.txt", [*step["index_options"], lock])
        command = [self._uv, "pip", "sync", "--python", python, "--link-mode", "hardlink"]
        if not self._may_build:
            command += ["--no-build", "--require-hashes", "--no-config"]
        self.uv([*command, listed], quiet=not self._may_build)
        if step["pip"]:
            self._seed(python, {_name(line) for line in entries(lock)})
            _write_user_packages(stage)
        _write_pip_settings(stage, step["home"])
        scripts_for_project(
            os.path.join(stage, "bin"), os.path.join(stage, "project-bin"), step["project_python"]
        )

    def _seed(self, python: str, locked: set[str]) -> None:
        """Install what ``python -m venv`` installs from the interpreter's own wheels, unless the lock has it."""
        wheels = [path for name, path in bundled_wheels() if name not in locked]
        if wheels:
            command = [self._uv, "pip", "install", "--python", python, "--link-mode", "hardlink"]
            self.uv([*command, "--no-deps", "--no-index", "--no-config", *wheels], quiet=True)

    def _venv(self, stage: str) -> None:
        self.uv(
            [
                self._uv,
                "venv",
                "-q",
                "--no-project",
                "--no-config",
                "--relocatable",
                "--python",
                sys.executable,
                stage,
            ]
        )

    # -- layer
    def _layer(self, step: Step) -> None:
        """Install the project as editable into a virtual environment that also sees the other one's packages."""
        stage = step["stage"]
        self._venv(stage)
        version = "python{}.{}".format(*sys.version_info[:2])
        packages = os.path.join(step["environment"], "lib", version, "site-packages")
        with open(os.path.join(stage, "lib", version, "site-packages", "zz_ci_env.pth"), "w") as file:
            file.write(f"import site; site.addsitedir({packages!r})\n")
        _write_pip_settings(stage, step["home"])
        command = [self._uv, "pip", "install", "--python", os.path.join(stage, "bin", "python"), "--no-deps"]
        for folder in step["projects"]:
            command += ["--editable", folder]
        self.uv(command)
        keep_built(os.path.join(stage, "lib", version, "site-packages"))

    # -- bytecode
    def _bytecode(self, step: Step) -> None:
        """Compile sources below ``source`` into the same paths below ``target``, without running any of them.

        Then let pytest, where it is there, do the same with the modules whose assertions it rewrites.
        """
        os.nice(19)
        source, target = step["source"], step["target"]
        ends_at = time.monotonic() + step["seconds"]
        for folder, _, names in os.walk(os.path.join(source, "lib")):
            for name in names:
                if not name.endswith(".py") or time.monotonic() > ends_at:
                    continue
                path = os.path.join(folder, name)
                made = importlib.util.cache_from_source(os.path.join(target, os.path.relpath(path, source)))
                try:
                    py_compile.compile(path, made, doraise=True, quiet=2)
                except (py_compile.PyCompileError, OSError, ValueError, RecursionError):
                    continue  # templates, tests of syntax errors, other versions of the language
        # A process of its own, because it imports pytest: what it does not make is made by each job.
        rewriting = [
            sys.executable,
            "-I",
            "-S",
            os.path.join(os.path.dirname(__file__), "rewrite_plugins.py"),
        ]
        seconds = max(0.0, ends_at - time.monotonic())
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*rewriting, source, target, str(seconds)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
                check=False,
            )

    # -- plumbing
    def uv(self, command: list[str], quiet: bool = False) -> None:
        """Run uv; its messages go to the user line by line, or, if `quiet`, are stored in `_last`."""
        self._last = ""
        process = subprocess.Popen(
            command,
            cwd=self._cwd,
            env=self._step_env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        lines = []
        with process.stderr as stream:
            for line in stream:
                lines.append(line.decode("utf-8", "replace"))
                if not quiet and not line.startswith(b"Using "):  # paths that mean nothing to a user
                    os.write(self._output, line)
        if process.wait() != 0:
            self._last = "".join(lines)
            raise StepFailed(cause(self._last) or f"uv ended with code {process.returncode}")

    def write_message(self, text: str) -> None:
        """Write a text for the user."""
        os.write(self._output, text.encode("utf-8", "replace"))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _write(self, name: str, lines: list[str]) -> str:
        with open(self._path(name), "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return self._path(name)

    def _read(self, name: str) -> str:
        with open(self._path(name), encoding="utf-8") as file:
            return file.read()


def write_netrc(folder: str, content: str) -> dict[str, str]:
    """Write a netrc file into a home folder for git and uv; return the variables by which they find it."""
    path = os.path.join(folder, ".netrc")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content.rstrip("\n") + "\n")
    return {"HOME": folder, "NETRC": path}


def keep_built(packages: str) -> None:
    """Make meson-python's editable installs import what was built.

    They would build again at each import, with a ninja that was there only while they were installed. The project is
    installed again whenever a file changes that its build depends on.
    """
    for name in os.listdir(packages):
        if not (name.startswith("_") and name.endswith("_editable_loader.py")):
            continue
        path = os.path.join(packages, name)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        os.unlink(path)  # it may be a hard link into a cache
        with open(path, "w", encoding="utf-8") as file:
            file.write(_NINJA.sub("['true']", text))


def bundled_wheels() -> list[tuple[str, str]]:
    """Return (normalized name, path) of the wheels that this interpreter gives to new virtual environments.

    None in distributions that take them out (Debian's without python3-venv).
    """
    found = importlib.util.find_spec("ensurepip")
    if found is None or found.origin is None:
        return []
    folders = [os.path.join(os.path.dirname(found.origin), "_bundled")]
    folders.append(sysconfig.get_config_var("WHEEL_PKG_DIR") or "")
    wanted = ("pip", "setuptools") if sys.version_info < (3, 12) else ("pip",)
    wheels: dict[str, str] = {}
    for folder in folders:
        for file in sorted(os.listdir(folder)) if folder and os.path.isdir(folder) else ():
            name = _normalized(file.partition("-")[0])
            if file.endswith(".whl") and name in wanted:
                wheels.setdefault(name, os.path.join(folder, file))
    return list(wheels.items())


def _write_pip_settings(stage: str, home: str | None) -> None:
    """Make pip in the job install below the home folder, because other jobs have the same environment.

    Where the home folder is not known, pip refuses to install: no virtual environment allows ``--user``.
    """
    place = "user = true" if home is None else f"prefix = {home}/.local"
    with open(os.path.join(stage, "pip.conf"), "w", encoding="utf-8") as file:
        file.write(f"[install]\n{place}\n[global]\ndisable-pip-version-check = true\n")


def _write_user_packages(stage: str) -> None:
    """Make the environment's interpreter see what pip installs in the job."""
    version = "python{}.{}".format(*sys.version_info[:2])
    path = os.path.join(stage, "lib", version, "site-packages", "zz_ci_user.pth")
    packages = f"os.path.expanduser('~/.local/lib/{version}/site-packages')"
    # Until something is installed, `sys.path` is that of any virtual environment.
    is_new = "os.path.isdir(path) and path not in sys.path"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"import os, site, sys; path = {packages}; {is_new} and site.addsitedir(path)\n")


def cause(output: str) -> str:
    """Return the error in uv's output, with its reason, as one line."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    for index, line in enumerate(lines):
        if _ERROR.match(line):
            text = [_ERROR.sub("", line).strip()]
            for number, following in enumerate(lines[index + 1 :], index + 1):
                stripped = following.strip().lstrip("╰├─▶│ ").strip()
                if stripped.startswith("[std"):
                    # The steps in between say that the build failed; its own words say why.
                    text = [f"{text[0]}:", _last_words(lines[number:])]
                if stripped.startswith(("[std", "hint:")) or not following.startswith((" ", "╰", "cause")):
                    break
                text.append(stripped)
            return " ".join(text)
    return lines[-1].strip() if lines else ""


def _last_words(lines: list[str]) -> str:
    """Return the last line of a build that names an error, else its last one: usually what ended it."""
    written = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("hint:"):
            break
        if not stripped.startswith("[std"):
            written.append(stripped)
    errors = [line for line in written if _NAMES_ERROR.search(line) and not _SAYS_NOTHING.search(line)]
    return (errors or written or [""])[-1]


def without_folders(lock: str, root: str) -> str:
    """Return the lock without local folders, which are installed with the project."""
    lines = []
    for entry in entries(lock):
        match = _LOCAL.match(entry)
        path = match.group(1) if match is not None else ""
        path = path[7:] if path.startswith("file://") else path
        if not (path and os.path.isdir(os.path.normpath(os.path.join(root, path)))):
            lines.append(entry)
    return "".join(f"{line}\n" for line in lines)


def entries(lock: str) -> list[str]:
    """Return a lock's requirements with their hashes, continued lines joined, without comments."""
    joined = lock.replace("\\\n", " ")
    return [
        " ".join(line.split()) for line in joined.splitlines() if line.strip() and not line.startswith("#")
    ]


def scripts_for_project(source: str, target: str, python: str) -> None:
    """Copy an environment's scripts so that they run the project layer's interpreter, which also sees the project.

    `python` is the path of that interpreter; the job's variable `REMOTE_CI_PYTHON` overrides it.
    """
    os.mkdir(target)
    for name in os.listdir(source):
        path = os.path.join(source, name)
        if name.startswith(("python", "activate", "deactivate")) or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            head = file.read(512)
            rest = file.read() if head.startswith(b"#!/bin/sh\n'''exec'") else None
        if rest is None:
            continue
        body = (head + rest).split(b"\n", 2)
        body[1] = f'\'\'\'exec\' "${{REMOTE_CI_PYTHON:-{python}}}" "$0" "$@"'.encode()
        with open(os.path.join(target, name), "wb") as file:
            file.write(b"\n".join(body))
        os.chmod(os.path.join(target, name), 0o755)  # noqa: S103  # as every script


def _variants(plan: Plan) -> list[Plan]:
    """Return the plan, then the plan without guesses: without guessed extras, without a guessed version of pytest."""
    variants = [plan]
    guessed = plan["guessed_extras"]
    if guessed:
        variants.append({**plan, "extras": [extra for extra in plan["extras"] if extra not in guessed]})
    if plan["pytest"] != "pytest":
        last = variants[-1]
        loose = [
            "pytest" if line == plan["pytest"] and plan["adds_pytest"] else line
            for line in last["requirements"]
        ]
        variants.append({**plan, "requirements": loose, "pytest": "pytest"})
        if guessed:
            variants.append({**last, "requirements": loose, "pytest": "pytest"})
    return variants


def _worth_another(error: str, plan: Plan) -> bool:
    """Whether leaving out a guess can help."""
    return "extra" in error.lower() or "pytest" in error.lower()


def _pinned(exported: str) -> list[str]:
    """Return the entries of an exported lock as requirements: resolving finds the hashes again."""
    return [entry.split(" --hash=")[0] for entry in entries(exported)]


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _name(line: str) -> str:
    return _normalized(re.split(r"[\s\[<>=!~;@(]", line, maxsplit=1)[0])


def _has_pytest(lock: str) -> bool:
    return any(re.match(r"pytest(\[[^]]*\])?\s*(==|@)", entry) for entry in entries(lock))


def main(argv: list[str]) -> int:
    """Run the job of the spool folder `argv[1]`; return the exit code."""
    with open(os.path.join(argv[1], "job.json"), encoding="utf-8", errors="surrogateescape") as file:
        job: Job = json.load(file)
    os.unlink(os.path.join(argv[1], "job.json"))  # it may have credentials
    builder = Builder(argv[1], job)
    if job.get("protocol") == PROTOCOL:
        builder.run(job["steps"])
    else:
        builder.result.update(ok=False, error=f"the builder speaks protocol {PROTOCOL}")
    builder.write_result()
    return 0 if builder.result.get("ok") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
