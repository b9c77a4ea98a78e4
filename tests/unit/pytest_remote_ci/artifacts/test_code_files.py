"""Names of files that a job does not write here unasked."""

from __future__ import annotations

import pytest

from pytest_remote_ci.artifacts.code_files import is_code, is_named


@pytest.mark.parametrize(
    "path",
    [
        *("AGENTS.md", "notes/CLAUDE.md", "claude.local.md", "GEMINI.md", "a/SKILL.md", "x.instructions.md"),
        *("x.code-workspace", "x.sublime-project", "a/x.iml", "x.ipr", "x.vcxproj"),
        *("meson.build", "a/meson.build", "meson_options.txt", "BUILD.bazel", "MODULE.bazel", "x.star"),
        *("pom.xml", "a/pom.xml", "build.xml", "gradlew", "mvnw", "web.config", "nuget.config"),
        *("a/compose.yml", "docker-compose.override.yaml", "a/action.yml"),
        *("app.spec", "x.pro", "x.pri", "x.gemspec", "x.rake", "x.podspec", "x.just", "x.nu"),
        *("x.elc", "x.scm", "x.lisp", "x.fsx", "x.csx", "x.ksh", "x.csh"),
        *("x.command", "x.scpt", "x.applescript", "x.reg", "x.inf", "x.hta", "x.url", "x.webloc"),
        *("model.ckpt", "lib.so.1", "x.node"),
    ],
)
def test_what_is_obeyed_or_executed_where_it_lies(path: str) -> None:
    assert is_code(path)
    assert is_code(path.upper())
    assert not is_named("**", path), "a pattern for everything names nothing"
    assert is_named(path, path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "tests/__snapshots__/test_x.ambr",
            "tests/data/x.json",
            "tests/cassettes/x.yaml",
            "tests/x/compose_me.yml",
        ),
        *(
            "README.md",
            "notes/agents.rst",
            "notes/skills.md",
            "tests/golden/build_log.txt",
            "tests/x.svg",
            "x.csv",
        ),
    ],
)
def test_data_of_tests_is_no_code(path: str) -> None:
    assert not is_code(path)
