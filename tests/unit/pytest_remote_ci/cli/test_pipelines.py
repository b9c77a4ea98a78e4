"""`remote-ci pipeline check` and `dry-run`, as the reference system's commands and beyond."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ci_runner.pipelines.check import answer
from pytest_remote_ci.cli import main
from pytest_remote_ci.cli.plan_view import critical_path
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import pipeline_files
from pytest_remote_ci.wire.answers import CheckedPipelines, Plan
from pytest_remote_ci.workspace import changed_files


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git work tree, in which the commands run."""
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (folder / ".pipelines").mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `remote-ci pipeline …`; the question crosses no process, but both sides' JSON."""

    def read_locally(question: Any) -> CheckedPipelines:
        return CheckedPipelines(json.loads(json.dumps(answer(json.loads(json.dumps(question))))))

    def command(*words: str) -> Done:
        monkeypatch.setattr(pipeline_files, "read_locally", read_locally)
        code = main.main(["pipeline", *words])
        found = capsys.readouterr()
        return Done(code, found.out, found.err)

    return command


def write(project: Path, text: str, name: str = ".pipelines/ci.yaml") -> str:
    file = project / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(textwrap.dedent(text), "utf-8")
    return name


VALID = """\
    stages: [build, test]
    jobs:
      - {name: compile, stage: build, image: "gradle:8", script: gradle build}
      - {name: unit, stage: test, image: "gradle:8", script: gradle test, needs: [compile]}
    """


@pytest.mark.case("B1")
@pytest.mark.parametrize("form", [[], ["-f"], ["--file"]])
def test_a_valid_file_is_0(project: Path, run: Run, form: list[str]) -> None:
    file = write(project, VALID)
    assert run("check", *form, file) == Done(
        0, f"Checking pipeline configuration: {file}\nPipeline configuration is valid!\n", ""
    )


@pytest.mark.case("B2")
def test_a_file_with_mistakes_is_1_and_each_is_a_line(project: Path, run: Run) -> None:
    file = write(project, "stages: [a]\njobs: [{name: x, stage: b}, {stage: a}]\n")
    assert run("check", file) == Done(
        1,
        f"Checking pipeline configuration: {file}\n",
        f"{file}:1:10: warning: stages[0]: stage 'a' has no jobs\n"
        f"{file}:2:25: jobs[0].stage: Job 'x' references non-existent stage 'b'; known: a\n"
        f"{file}:2:29: jobs[1]: Job at index 1 is missing 'name' field\n"
        "Error: Invalid pipeline: 2 errors\n",
    )


@pytest.mark.case("B3")
def test_a_file_that_is_no_yaml_by_its_name_is_1(project: Path, run: Run) -> None:
    file = write(project, VALID, "ci.txt")
    done = run("check", file)
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: File extension must be a YAML file (.yaml or .yml), or .toml: ci.txt\n"


@pytest.mark.case("B4")
def test_a_file_in_no_project_is_1(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "ci.yaml"
    file.write_text(textwrap.dedent(VALID))
    assert not any(
        (above / name).exists()
        for above in tmp_path.parents
        for name in (".git", "pyproject.toml", "setup.py")
    ), "the folder of temporary files is in a project"
    done = run("check", str(file))
    assert done.code == 1
    assert done.err.startswith(f"Error: {file} is not in a project: ")
    (tmp_path / "pyproject.toml").touch()
    assert run("check", str(file)).code == 0


@pytest.mark.case("B27")
@pytest.mark.parametrize("command", ["check", "dry-run"])
def test_a_file_that_is_not_there_is_1(project: Path, run: Run, command: str) -> None:
    done = run(command, "x.yaml")
    assert (done.code, done.err.splitlines()) == (
        1,
        ["x.yaml:1:1: Pipeline configuration file not found: x.yaml", "Error: Invalid pipeline: 1 error"],
    )


def test_a_file_that_is_no_text_is_1(project: Path, run: Run) -> None:
    (project / "x.yaml").write_bytes(b"a: b\nc: \xff")
    assert run("check", "x.yaml").err == "x.yaml:2:4: is not UTF-8\nError: Invalid pipeline: 1 error\n"


def test_a_file_that_is_too_long_is_not_sent(project: Path, run: Run) -> None:
    write(project, "x" * (pipeline_files.LONGEST_FILE + 1), "x.yaml")
    assert run("check", "x.yaml").err.startswith("x.yaml:1:1: the file is longer than 262144 bytes\n")


@pytest.mark.case("B74")
def test_without_a_file_all_pipelines_are_checked_and_a_missing_folder_is_told(
    project: Path, run: Run
) -> None:
    (project / ".pipelines").rmdir()
    nothing = run("check")
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.err == (
        "Error: no pipeline is defined: write [tool.remote-ci.pipelines.<name>] in pyproject.toml, "
        "or .pipelines/<name>.yaml\n"
    )
    write(project, VALID, ".pipelines/b.yml")
    write(project, VALID, ".pipelines/a.yaml")
    write(project, '[tool.remote-ci.pipelines.B]\nstages = ["s"]\njobs.x.stage = "s"\n', "pyproject.toml")
    done = run("check")
    assert done.out.splitlines() == [
        f"Checking pipeline configuration: {name}"
        for name in ("pyproject.toml", ".pipelines/a.yaml", ".pipelines/b.yml")
    ]
    assert "Duplicate pipeline name 'b'" in done.err


def test_a_project_s_file_without_pipelines_is_told(project: Path, run: Run) -> None:
    write(project, "[tool.x]\n", "pyproject.toml")
    assert run("check", "pyproject.toml").err.startswith(
        "pyproject.toml:1:1: this file defines no pipeline\n"
    )


def test_a_mistake_in_a_project_s_file_names_its_key(project: Path, run: Run) -> None:
    write(project, '[tool.remote-ci.pipelines.p]\nstages = ["s", "s"]\n', "pyproject.toml")
    lines = run("check", "pyproject.toml").err.splitlines()
    assert (
        "pyproject.toml: tool.remote-ci.pipelines.p.stages[1]: Duplicate stage name 's'; first at"
        " tool.remote-ci.pipelines.p.stages[0]"
    ) in lines


def lines(done: Done) -> list[str]:
    """The plan's lines."""
    assert (done.code, done.err) == (0, "")
    head, plan = done.out.split("Execution Plan:\n")
    assert head == "Validating pipeline configuration: .pipelines/ci.yaml\n"
    return plan.splitlines()


@pytest.mark.case("B5")
def test_the_plan_shows_stages_jobs_images_and_scripts(project: Path, run: Run) -> None:
    assert lines(run("dry-run", "-f", write(project, VALID))) == [
        "build:",
        "  compile:",
        "    image: gradle:8",
        "    script:",
        "      - gradle build",
        "test:",
        "  unit:",
        "    image: gradle:8",
        "    script:",
        "      - gradle test",
        "    needs: compile",
    ]


@pytest.mark.case("B6")
def test_stages_without_jobs_are_shown(project: Path, run: Run) -> None:
    done = run("dry-run", write(project, "stages: [build, {name: test}]"))
    assert done.code == 0
    assert done.out.endswith("Execution Plan:\nbuild:\ntest:\n")
    assert [line.split(": ", 1)[1] for line in done.err.splitlines()] == [
        "warning: stages[0]: stage 'build' has no jobs",
        "warning: stages[1].name: stage 'test' has no jobs",
    ]


@pytest.mark.case("B7", "B8", "B9", "B10", "B11")
@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("args: [-x, 'a b']", ["python -m pytest -x 'a b'"]),
        ("script: make", ["make"]),
        ('script: "make\\n  make test  \\n\\n"', ["make", "make test"]),
        ("script: [make, make test]", ["make", "make test"]),
        ('script: ["if a; then\\n  b\\nfi"]', ["if a; then", "  b", "fi"]),
        ("script: []", ['echo "Empty script"']),
    ],
    ids=["none", "text", "block", "list", "lines", "empty"],
)
def test_a_script_s_commands_are_lines(project: Path, run: Run, script: str, shown: list[str]) -> None:
    done = run("dry-run", write(project, f"{{stages: [s], jobs: [{{name: a, stage: s, {script}}}]}}"))
    found = done.out.split("    script:\n")[1].splitlines()
    assert [line[8:] for line in found] == shown
    assert found[0].startswith("      - ")


@pytest.mark.case("B12")
def test_a_job_without_a_name_is_told_and_nothing_is_planned(project: Path, run: Run) -> None:
    done = run("dry-run", write(project, "{stages: [s], jobs: [{stage: s}, {name: a, stage: s}]}"))
    assert done.code == 1
    assert "Execution Plan" not in done.out
    assert ".pipelines/ci.yaml:1:22: jobs[0]: Job at index 0 is missing 'name' field" in done.err


@pytest.mark.case("B48", "B76")
@pytest.mark.parametrize("words", [[], ["-p", "ci"], ["--file", ".pipelines/ci.yaml"], ["--job", "unit"]])
def test_run_dry_run_is_dry_run(project: Path, run: Run, words: list[str]) -> None:
    write(project, VALID)
    done = run("run", "--dry-run", *words)
    assert done == run("dry-run", *words)
    assert done.code == 0
    assert "  unit:\n" in done.out


def test_a_pipeline_of_a_file_is_named_by_an_option(project: Path, run: Run) -> None:
    file = write(project, VALID)
    assert run("dry-run", "-f", file, "-p", "ci").code == 0
    unknown = run("dry-run", "-f", file, "--pipeline", "nine")
    assert (unknown.code, "nine" in unknown.err) == (4, True)


#: A pipeline with the keys of the reference system: nested jobs, a repository, folders of an image.
NESTED = """\
    name: nested
    repository: https://example.org/nested.git
    branch: main

    stages:
      - name: build
        jobs:
          - name: compile
            image: bare:1
            script:
              - "make all"
            allow_failure: false
            working_dir: "/app"

      - name: test
        jobs:
          - name: unit-tests
            image: bare:1
            script:
              - "make check"
            dependencies: ["compile"]
    """


@pytest.mark.case("B75")
def test_a_pipeline_in_its_form_is_checked_and_planned(project: Path, run: Run) -> None:
    (project / "path").mkdir()
    file = write(project, NESTED, "path/to/pipeline.yaml")
    warning = (
        f"{file}:13:22: warning: stages[0].jobs[0].working_dir: "
        "'/app' is taken as the project's own folder; write '.'\n"
    )
    assert run("check", "--file", "path/to/pipeline.yaml") == Done(
        0, f"Checking pipeline configuration: {file}\nPipeline configuration is valid!\n", warning
    )
    planned = run("dry-run", "--file", "path/to/pipeline.yaml")
    assert (planned.code, planned.err) == (0, warning)
    assert "build:\n  compile:\n    image: bare:1\n    script:\n      - make all" in planned.out
    assert planned.out.index("  compile:") < planned.out.index("test:\n  unit-tests:")


@pytest.mark.case("B13")
@pytest.mark.parametrize("key", ["dockerImage", "image", "docker-image", "docker_image"])
def test_the_image_is_shown_whatever_its_spelling(project: Path, run: Run, key: str) -> None:
    file = write(project, f"{{stages: [s], jobs: [{{name: a, stage: s, {key}: 'gradle:8'}}]}}")
    assert lines(run("dry-run", file))[2] == "    image: gradle:8"


@pytest.mark.case("B14")
def test_nested_stages_are_shown_as_the_others(project: Path, run: Run) -> None:
    nested = """\
        stages:
          - name: build
            jobs: [{name: compile, image: "gradle:8", script: gradle build}]
          - name: test
            jobs: [{name: unit, image: "gradle:8", script: gradle test, needs: compile}]
        """
    flat = lines(run("dry-run", write(project, VALID)))
    assert lines(run("dry-run", write(project, nested))) == flat


FULL = """\
    [tool.remote-ci.pipelines.one]
    stages = ["s", "t"]
    [tool.remote-ci.pipelines.one.jobs.a]
    stage = "s"
    python = "3.12"
    image = "x"
    matrix = { db = ["pg", "none"] }
    env = { DB = "{db}" }
    secrets = ["TOKEN"]
    artifacts = ["*.xml"]
    services = { db = "postgres:17" }
    allow-failure = true
    retries = { count = 2, exit-codes = [75] }
    timeout = 90
    [tool.remote-ci.pipelines.one.jobs.b]
    stage = "t"
    python = "3.12"
    when.tag = "v*"
    [tool.remote-ci.pipelines.two]
    stages = [{ name = "s", timeout = "1h" }]
    jobs.c.stage = "s"
    """


def test_a_stage_s_timeout_is_shown_beside_its_name(project: Path, run: Run) -> None:
    write(project, FULL, "pyproject.toml")
    assert "s:  [timeout: 60 min]" in run("dry-run", "two").out.splitlines()


def test_a_pipeline_is_planned_by_its_name_with_all_that_matters(project: Path, run: Run) -> None:
    write(project, FULL, "pyproject.toml")
    write(project, "stages: 7", ".pipelines/broken.yaml")  # stops nobody else
    done = run("dry-run", "ONE")
    assert done.code == 0
    assert done.out.splitlines()[1:16] == [
        "s:",
        "  a (db=pg):",
        "    image: x",
        "    script:",
        "      - python -m pytest",
        "    python: 3.12",
        "    secrets: TOKEN",
        "    artifacts: *.xml",
        "    env: DB=pg",
        "    services: db (postgres:17)",
        "    allow failure: yes",
        "    retries: 2 (also after exit codes 75)",
        "    timeout: 90 s",
        "  a (db=none):",
        "    image: x",
    ]
    assert done.out.splitlines()[-4:-2] == [
        "  b:  [left out: the run is for no tag (v*)]",
        "    image: the runner's own for Python 3.12",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Error: there are several pipelines; name one of: one, two\n"),
        (["tow"], "Error: no pipeline 'tow'; did you mean 'two'?\n"),
        (["one", "--job", "x"], "Error: no job 'x' in pipeline 'one'; known: a, b\n"),
        (["one", "--stage", "x"], "Error: no stage 'x' in pipeline 'one'; known: s, t\n"),
    ],
)
def test_what_cannot_be_planned_is_one_line(project: Path, run: Run, words: list[str], message: str) -> None:
    write(project, FULL, "pyproject.toml")
    done = run("dry-run", *words)
    assert (done.code, done.err) == (4, message)


def test_a_plan_as_json_is_what_a_run_stores(project: Path, run: Run) -> None:
    write(project, FULL, "pyproject.toml")
    found = json.loads(run("dry-run", "one", "--job", "b", "--tag", "v1", "--format", "json").out)
    assert found.pop("critical_path") is None
    assert found == {
        "version": 1,
        "pipeline": "one",
        "stages": ["s", "t"],
        "jobs": [{"name": "b", "definition": "b", "stage": "t", "python": "3.12"}],
        "keep_going": False,
    }


def test_what_changed_is_committed_uncommitted_or_untracked(project: Path, run: Run) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=project, check=True, capture_output=True, timeout=60)

    (project / ".git").rmdir()
    git("init", "-q")
    for name in ("docs/a.md", "src/b.py", "old.py"):
        write(project, "1", name)
    git("add", ".")
    git("commit", "-qm", "first")
    assert changed_files.since(project, "HEAD") == []
    write(project, "2", "docs/a.md")
    write(project, "2", "new ü.py")
    (project / "old.py").unlink()
    assert changed_files.since(project, "HEAD") == ["docs/a.md", "new ü.py", "old.py"]
    assert changed_files.since(project / "docs", "HEAD") == ["a.md"]
    text = "{stages: [s], jobs: [{name: a, stage: s, when: {changed: %s}}]}"
    assert "left out" not in run("dry-run", write(project, text % "docs"), "--changed-since", "HEAD").out
    assert "left out" in run("dry-run", write(project, text % "src"), "--changed-since", "HEAD").out
    for wrong in ("nothing", "--help"):
        with pytest.raises(ConfigError):
            changed_files.since(project, wrong)


def job(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "stage": "test", "needs": list(needs), **more}


def test_the_critical_path_is_the_longest_chain_by_past_durations() -> None:
    jobs = [
        job("a"),
        job("b", "a"),
        job("c", "a"),
        job("d", "b", "c"),
        job("e", skipped="x"),
        job("new", "d"),
    ]
    plan = Plan({"pipeline": "ci", "jobs": jobs[::-1]})
    assert critical_path(plan, {"a": 1, "b": 5, "c": 2, "d": 1, "e": 99}) == (["a", "b", "d"], 7.0)
    assert critical_path(plan, {}) == ([], 0.0)
    assert critical_path(Plan({"pipeline": "ci", "jobs": []}), {"a": 1}) == ([], 0.0)


def test_reading_takes_a_process_that_the_project_s_modules_cannot_disturb(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("yaml.py", "ci_runner.py", "json.py"):
        write(project, "raise SystemExit('no')", name)
    assert main.main(["pipeline", "check", write(project, VALID)]) == 0
    assert pipeline_files.read_locally({"files": [["a.yaml", "stages: 7"]]}).fields["valid"] is False
    with pytest.raises(ConfigError, match="the pipelines could not be read: files: must be a list"):
        pipeline_files.read_locally({})


def test_with_neither_a_reader_nor_a_runner_it_is_said_what_to_do(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("REMOTE_CI_URL", "CI_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(pipeline_files, "can_read_locally", lambda: False)
    assert main.main(["pipeline", "check", write(project, VALID)]) == 4
    assert capsys.readouterr().err == (
        "Error: Pipelines cannot be read here: run `pip install 'pytest-remote-ci[runner]'`, "
        "or `remote-ci login` to let a runner read them\n"
    )


@pytest.mark.parametrize(
    "words", [["pipeline"], ["pipeline", "dry-run", "--format", "xml"], ["pipeline", "x"]]
)
def test_usage_errors_are_4(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(words)
    assert caught.value.code == 4
