"""Names of files that are executed or obeyed where they lie, which a job must not write unasked.

A job's changes of the project are of its choosing. What the next local run, a build, an editor or git would execute or
read as configuration comes only if the developer names it.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

from pytest_remote_ci.artifacts.report_kinds import ACTIVE, JSON_SETTINGS
from pytest_remote_ci.wire import globs
from pytest_remote_ci.wire.changes import is_database

#: Suffixes of data, which are configuration only directly in the project's root.
_DATA: Final = frozenset({".yaml", ".yml"})
#: Data from which objects with code are loaded.
_PICKLES: Final = frozenset({".pkl", ".pickle", ".dill", ".joblib", ".pt", ".ckpt", ".shelf", ".marshal"})
#: Sources and results of compilers, packages, and templates that run code: nothing that tests are for.
_BUILT: Final = re.compile(
    r"\.(c|cc|cpp|cxx|cu|h|hh|hpp|hxx|m|mm|s|asm|f|f77|f90|f95|for|pxd|pxi|rs|go|swift|zig|d|nim|java|kts?|scala|groovy|"
    r"gradle|clj|cs|fs|vb|csproj|props|targets|sln|cmake|nix|tf|hcl|bzl|ninja|am|ac|m4|r|jl|exs?|erl|hs|ml|tcl|awk|sed|"
    r"vbs|wsf|psm1|psd1|jsx|tsx|vue|svelte|mts|cts|wasm|o|a|lib|dylib|jar|war|class|whl|egg|zip|pyz|apk|deb|rpm|msi|com|"
    r"scr|app|desktop|service|plist|lnk|mako|j2|jinja2?|tmpl|xlsm|docm|node|spec|pr[oi]|gemspec|rake|podspec|bazel|star|"
    r"just|nu|elc|scm|lisp|fsx|csx|[kc]sh|command|scpt|applescript|reg|inf|hta|url|webloc|"
    r"code-workspace|sublime-(project|workspace)|iml|ipr|vcxproj)"
)
#: Names that programs read as instructions (assistants that write code, too), whatever their suffix says.
_OBEYED: Final = re.compile(
    r"(?i)(gnu)?makefile(\..*)?|.*dockerfile(\..*)?|containerfile|justfile|rakefile|gemfile|procfile|vagrantfile|"
    r"jenkinsfile|pipfile(\.lock)?|sconstruct|sconscript|snakefile|build|workspace|tiltfile|brewfile|cmakelists\.txt|"
    r"(.*[-_.])?(requirements|constraints)([-_.].*)?\.(txt|in)|manifest\.in|.*\.lock|py\.typed|.*\.so(\.\d+)+|"
    r"meson\.build|meson(_options|\.options)\.txt|(pom|build)\.xml|gradlew|mvnw|(web|nuget)\.config|"
    r"((docker|podman)-)?compose([-.].*)?\.ya?ml|action\.ya?ml|"
    r"(claude|agents|gemini|skill)([-._].*)?\.md|.*\.(instructions|prompt)\.md"
)
#: Texts in which pytest finds tests to run.
_TEXTS: Final = frozenset({".txt", ".rst", ".md"})
#: How programs begin: scripts, ELF, PE, Mach-O (of one processor in either order of bytes, and of several).
_PROGRAM: Final = (b"#!", b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xca\xfe\xba\xbe")


def is_code(path: str) -> bool:
    """Return whether a file of that name is executed or obeyed where it lies."""
    *folders, name = path.split("/")
    suffix = PurePosixPath(name).suffix.lower()
    if any(part.startswith(".") for part in (*folders, name)):
        return not is_database(path)
    if suffix in (ACTIVE - _DATA) | _PICKLES or _BUILT.fullmatch(suffix) or JSON_SETTINGS.fullmatch(name):
        return True
    return _OBEYED.fullmatch(name) is not None or (suffix in _DATA and not folders)


def is_program(head: bytes) -> bool:
    """Return whether a file that begins with `head` is executed as it is."""
    return head.startswith(_PROGRAM)


def may_hold_doctests(path: str) -> bool:
    """Return whether pytest can find tests in the text of a file of that name."""
    return PurePosixPath(path).suffix.lower() in _TEXTS


def is_named(pattern: str, path: str) -> bool:
    """Return whether `pattern` names the file itself: its own name, or any one with its suffix (``tests/*.py``).

    A folder, or ``**``, names no file.
    """
    last = pattern.rstrip("/").rpartition("/")[2]
    folder, _, name = path.rpartition("/")
    one = globs.Globs((pattern,))
    if not one.match(path) or (folder and one.match(folder)):
        return False
    suffix = PurePosixPath(name).suffix
    return last == name or bool(suffix and last.endswith(suffix))
