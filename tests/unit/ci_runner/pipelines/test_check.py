"""The reference system's accepted and rejected pipelines, in its YAML form, with the place of each mistake."""

from __future__ import annotations

import json
import textwrap

import pytest

from ci_runner.pipelines.check import Checked, check
from ci_runner.pipelines.planning import make_plan

FILE = ".pipelines/ci.yaml"


def checked(text: str) -> Checked:
    return check([(FILE, textwrap.dedent(text))])


def accepted(text: str) -> Checked:
    """The text, which has neither errors nor warnings."""
    found = checked(text)
    assert [str(problem) for problem in found.problems] == []
    return found


def rejected(text: str) -> list[str]:
    """All problems of a text with errors, without the file's name."""
    found = checked(text)
    assert not found.is_valid
    return [str(problem).removeprefix(f"{FILE}:") for problem in found.problems]


def shape(found: Checked) -> dict[str, list[str]]:
    """Stage → its jobs."""
    (pipeline,) = found.pipelines
    return {
        stage.name: [job.name for job in pipeline.jobs if job.stage.name == stage.name]
        for stage in pipeline.stages
    }


NESTED = """
    name: nested
    repository: https://example.org/project.git
    branch: main
    stages:
      - name: build
        jobs:
          - name: compile
            image: gradle:8.12-jdk21
            script: [gradle build]
      - name: test
        jobs:
          - name: unit
            dockerImage: gradle:8.12-jdk21
            script: [gradle test]
            dependencies: [compile]
    """

TOP_LEVEL = """
    name: flat
    stages: [build, test]
    jobs:
      - name: compile
        stage: build
        image: gradle:8.12-jdk21
        script: [gradle build]
      - name: unit
        stage: test
        image: gradle:8.12-jdk21
        script: [gradle test]
        dependencies: [compile]
    """


@pytest.mark.case("B15")
def test_jobs_may_stand_in_their_stages() -> None:
    assert shape(accepted(NESTED)) == {"build": ["compile"], "test": ["unit"]}


@pytest.mark.case("B16")
def test_jobs_may_stand_below_jobs() -> None:
    assert shape(accepted(TOP_LEVEL)) == {"build": ["compile"], "test": ["unit"]}


@pytest.mark.case("B17")
def test_a_pipeline_of_four_stages_and_five_jobs() -> None:
    found = accepted("""
        stages:
          - build
          - test
          - doc
          - deploy
        jobs:
          - {name: compile, stage: build, script: [make]}
          - {name: unit, stage: test, script: [make test], dependencies: [compile]}
          - {name: lint, stage: test, script: [make lint], allow_failure: true}
          - {name: site, stage: doc, script: [make doc], dependencies: [compile, unit]}
          - {name: push, stage: deploy, script: ["sleep 1h"], dependencies: [site]}
        """)
    assert shape(found) == {
        "build": ["compile"],
        "test": ["unit", "lint"],
        "doc": ["site"],
        "deploy": ["push"],
    }
    assert [job.allow_failure for job in found.pipelines[0].jobs] == [False, False, True, False, False]


@pytest.mark.case("B18", "B73")
def test_stages_may_be_maps_with_a_name() -> None:
    found = accepted('{stages: [{name: build}, "2"], jobs: [{name: a, stage: build}, {name: b, stage: "2"}]}')
    assert shape(found) == {"build": ["a"], "2": ["b"]}


@pytest.mark.case("B73")
def test_a_stage_that_is_a_number_is_refused_and_the_quotes_are_named() -> None:
    assert rejected("{stages: [2], jobs: []}") == [
        "1:11: stages[0]: Stage at index 0 must be a string or map, not 2; write names in quotes"
    ]


@pytest.mark.defect(9)
@pytest.mark.case("B19", "B20")
@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("make test", ("make test",)),
        ("[make, make test]", ("make", "make test")),
        (
            "[make, sleep 1, make, sleep 1]",
            ("make", "sleep 1", "make", "sleep 1"),
        ),
    ],
)
def test_a_script_is_one_command_or_a_list_in_its_order(script: str, commands: tuple[str, ...]) -> None:
    found = accepted(f"{{stages: [s], jobs: [{{name: a, stage: s, script: {script}}}]}}")
    assert found.pipelines[0].jobs[0].script == commands


@pytest.mark.case("B21")
def test_dependencies_may_form_diamonds() -> None:
    found = accepted("""
        stages: [s]
        jobs:
          - {name: top, stage: s}
          - {name: left, stage: s, needs: top}
          - {name: right, stage: s, dependencies: top}
          - {name: bottom, stage: s, needs: [left], dependencies: [right, left, top]}
        """)
    assert [need.name for need in found.pipelines[0].jobs[3].needs] == ["left", "right", "top"]


@pytest.mark.case("B22")
def test_dependencies_may_be_empty() -> None:
    found = accepted("{stages: [s], jobs: [{name: a, stage: s, dependencies: []}]}")
    assert found.pipelines[0].jobs[0].needs == ()


@pytest.mark.case("B23")
@pytest.mark.parametrize(
    "text", ["{stages: [{name: a, jobs: []}]}", "{stages: [a], jobs: []}"], ids=["nested", "top-level"]
)
def test_a_list_of_jobs_may_be_empty(text: str) -> None:
    assert checked(text).is_valid


@pytest.mark.case("B24")
def test_an_odd_image_is_only_warned_of() -> None:
    found = checked("{stages: [s], jobs: [{name: a, stage: s, image: 'my image!'}]}")
    assert found.is_valid
    assert [str(problem) for problem in found.problems] == [
        f"{FILE}:1:49: warning: jobs[0].image: image name 'my image!' has unusual characters"
    ]


@pytest.mark.parametrize(
    "image",
    [
        "alpine",
        "python:3.12",
        "docker.io/library/a_b:1",
        "ghcr.io/a/b@sha256:0f",
        "localhost:5000/a",
    ],
)
def test_ordinary_images_are_not_warned_of(image: str) -> None:
    accepted(f"{{stages: [s], jobs: [{{name: a, stage: s, image: '{image}'}}]}}")


@pytest.mark.case("B25")
def test_a_nested_job_may_name_its_stage_again() -> None:
    accepted("{stages: [{name: s, jobs: [{name: a, stage: s}]}]}")
    other = checked("{stages: [{name: s, jobs: [{name: a, stage: t}]}]}")
    assert other.is_valid
    assert shape(other) == {"s": ["a"]}
    assert "warning: stages[0].jobs[0].stage: is not used: the job is in stage 's'" in str(other.problems[0])


@pytest.mark.case("B26")
@pytest.mark.parametrize("key", ["allow_failure", "allowFailure", "allow-failure"])
@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ('"True"', True), ("FALSE", False), ('"false"', False), ("yes", True)]
)
def test_flags_may_be_text_in_any_case(key: str, text: str, value: bool) -> None:
    found = accepted(f"{{stages: [s], jobs: [{{name: a, stage: s, {key}: {text}}}]}}")
    assert found.pipelines[0].jobs[0].allow_failure is value


@pytest.mark.case("B13")
@pytest.mark.parametrize("key", ["dockerImage", "image", "docker-image", "docker_image"])
def test_the_image_has_four_spellings(key: str) -> None:
    found = accepted(f"{{stages: [s], jobs: [{{name: a, stage: s, {key}: 'gradle:8'}}]}}")
    assert found.pipelines[0].jobs[0].image == "gradle:8"


@pytest.mark.parametrize(
    "text",
    [
        "{pipeline: {name: p, stages: [s], jobs: [{name: a, stage: s}]}}",
        "{pipeline: {name: p, stages: [s]}, jobs: [{name: a, stage: s}]}",
        "{pipeline: p, stages: [s], jobs: [{name: a, stage: s}]}",
    ],
)
def test_the_documents_of_the_reference_system_have_a_root_key(text: str) -> None:
    found = accepted(text)
    assert found.pipelines[0].name == "p"
    assert shape(found) == {"s": ["a"]}


JOB = "{{stages: [s], jobs: [{{name: a, stage: s, {}}}]}}"

REJECTED = [
    ("28", "", "1:1: Error parsing pipeline YAML: the file is empty"),
    ("28", "# nothing\n", "1:1: Error parsing pipeline YAML: the file is empty"),
    ("29", "name: x", "1:1: Missing 'stages' field: a list of names, in the order in which they run"),
    ("30", "stages: build", "1:9: stages: 'stages' must be a list, not 'build'"),
    (
        "31",
        "stages: [a, 7]",
        "1:13: stages[1]: Stage at index 1 must be a string or map, not 7; write names in quotes",
    ),
    ("32", "stages: [{}]", "1:10: stages[0]: Stage at index 0 is missing 'name' field"),
    ("33", "stages: ['  ']", "1:10: stages[0]: Stage at index 0 has empty name"),
    ("34", "stages: [a, a]", "1:13: stages[1]: Duplicate stage name 'a'; first in line 1"),
    ("35", "{stages: [a], jobs: x}", "1:21: jobs: 'jobs' must be a list, not 'x'"),
    (
        "35",
        "{stages: [a], jobs: {b: {}}}",
        "1:21: jobs: 'jobs' must be a list: write each job as '- name: …'",
    ),
    ("35", "stages: [{name: a, jobs: x}]", "1:26: stages[0].jobs: Jobs in stage 'a' must be a list, not 'x'"),
    ("36", "{stages: [a], jobs: [x]}", "1:22: jobs[0]: Each job must be a map, not 'x'"),
    (
        "37",
        "{stages: [a], jobs: [{name: b, stage: a}, {name: b, stage: a}]}",
        "1:50: jobs[1]: Duplicate job name 'b' in stage 'a'; first in line 1",
    ),
    ("38", JOB.format("image: ''"), "1:49: jobs[0].image: 'image' of job 'a' cannot be empty"),
    (
        "39",
        JOB.format("allow_failure: maybe"),
        "1:57: jobs[0].allow_failure: 'allow_failure' of job 'a' must be true or false, not 'maybe'",
    ),
    (
        "40",
        JOB.format("script: 123"),
        "1:50: jobs[0].script: 'script' of job 'a' must be a string or list of strings, not 123",
    ),
    ("40", JOB.format("script: [1]"), "1:51: jobs[0].script[0]: 'script' of job 'a' must be a string, not 1"),
    ("41", JOB.format("needs: [b]"), "1:50: jobs[0].needs[0]: Job 'a' depends on non-existent job 'b'"),
    ("42", JOB.format("needs: a"), "1:49: jobs[0].needs: Job 'a' cannot depend on itself"),
    (
        "43",
        "{stages: [{name: s, jobs: [{name: a, needs: b}, {name: b, needs: c}, {name: c, needs: a}]}]}",
        "1:45: stages[0].jobs[0].needs: Circular dependency detected between jobs: a -> b -> c -> a",
    ),
    (
        "44",
        JOB.format("dependencies: 7"),
        "1:56: jobs[0].dependencies: 'dependencies' of job 'a' must be text or a list of job names, not 7",
    ),
    (
        "44",
        JOB.format("dependencies: [7]"),
        "1:57: jobs[0].dependencies[0]: 'dependencies' of job 'a' must be text (in quotes: \"…\"), not 7",
    ),
]


@pytest.mark.case(
    "B28",
    "B29",
    "B30",
    "B31",
    "B32",
    "B33",
    "B34",
    "B35",
    "B36",
    "B37",
    "B38",
    "B39",
    "B40",
    "B41",
    "B42",
    "B43",
    "B44",
)
@pytest.mark.parametrize(("case", "text", "message"), REJECTED, ids=[f"B{row[0]}" for row in REJECTED])
def test_a_mistake_is_told_with_its_place_and_key(case: str, text: str, message: str) -> None:
    assert message in rejected(text)


def nested(body: str) -> str:
    return f"{{stages: [{{name: s, jobs: [{body}]}}]}}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{name: a}, {name: a}", "Duplicate job name 'a' in stage 's'"),
        ("{name: a, needs: b}", "Job 'a' depends on non-existent job 'b'"),
        ("{name: a, dependencies: a}", "Job 'a' cannot depend on itself"),
        ("{name: a, needs: b}, {name: b, dependencies: [a]}", "jobs: a -> b -> a"),
        ("{script: x}", "Job at index 0 in stage 's' is missing 'name' field"),
        ("{name: ' '}", "Job at index 0 in stage 's' has empty name"),
        ("7", "Each job must be a map, not 7"),
    ],
)
def test_nested_jobs_are_checked_as_the_others_are(body: str, message: str) -> None:
    """Decision 7: the reference system checked dependencies in one of its forms only."""
    assert message in "\n".join(rejected(nested(body)))


@pytest.mark.defect(2)
def test_nested_jobs_run_as_the_others_do() -> None:
    """The reference system took `working_dir` of nested jobs for the address of their repository."""
    job = {"name": "a b", "working_dir": "sub/folder", "script": ["make", "make"]}
    flat = check([("p.yaml", json.dumps({"stages": ["s"], "jobs": [{"stage": "s", **job}]}))])
    inner = check([("p.yaml", json.dumps({"stages": [{"name": "s", "jobs": [job]}]}))])
    assert flat.problems == inner.problems == ()
    plan = make_plan(inner.pipelines[0])
    assert plan == make_plan(flat.pipelines[0])
    assert (plan.jobs[0].name, plan.jobs[0].working_dir, plan.jobs[0].script) == (
        "a b",
        "sub/folder",
        ("make", "make"),
    )


@pytest.mark.case("B75")
@pytest.mark.parametrize(("written", "instead"), [("/app", "."), ("/app/", "."), ("/app/sub", "sub")])
def test_the_project_s_place_in_other_systems_is_accepted_with_a_warning(written: str, instead: str) -> None:
    job = {"name": "a", "working_dir": written, "script": "make"}
    found = check([("p.yaml", json.dumps({"stages": [{"name": "s", "jobs": [job]}]}))])
    assert [(problem.severity, problem.path, problem.message) for problem in found.problems] == [
        (
            "warning",
            "stages[0].jobs[0].working_dir",
            f"{written!r} is taken as the project's own folder; write {instead!r}",
        )
    ]


def test_one_name_in_two_stages_is_one_too_many() -> None:
    text = "{stages: [{name: s, jobs: [{name: a}]}, {name: t, jobs: [{name: a}]}]}"
    assert "Duplicate job name 'a'; first in line 1" in rejected(text)[0]


@pytest.mark.defect(12)
@pytest.mark.case("B72")
def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    """The reference system told one, as an unexpected error, without a place."""
    text = """\
        name: all
        stages: [build, build]
        jobs:
          - name: a
            stage: biuld
            scirpt: make
          - stage: build
          - name: c
            stage: build
            needs: [a, d]
        """
    assert rejected(text) == [
        "2:17: stages[1]: Duplicate stage name 'build'; first in line 2",
        "5:12: jobs[0].stage: Job 'a' references non-existent stage 'biuld'; did you mean 'build'?",
        "6:5: jobs[0].scirpt: unknown key 'scirpt' in job 'a'; did you mean 'script'?",
        "7:5: jobs[1]: Job at index 1 is missing 'name' field",
        "10:16: jobs[2].needs[1]: Job 'c' depends on non-existent job 'd'; known: a",
    ]


@pytest.mark.case("B74")
def test_names_of_pipelines_are_unique_whatever_their_case() -> None:
    body = "stages: [s]\njobs: [{name: a, stage: s}]"
    found = check([("a/ci.yaml", body), ("b.yml", f"name: CI\n{body}"), ("c.yml", f"name: ci2\n{body}")])
    assert [str(problem) for problem in found.problems] == [
        "b.yml:1:7: name: Duplicate pipeline name 'CI' (case is ignored); first in a/ci.yaml:1"
    ]


@pytest.mark.defect(15)
@pytest.mark.parametrize(
    ("file", "name"), [("ci.yaml", "ci"), (".pipelines/my.ci.yml", "my.ci"), ("a\\b.yaml", "b")]
)
def test_a_pipeline_without_a_name_is_called_as_its_file(file: str, name: str) -> None:
    """The reference system's stripping of the suffix was undone by its next line."""
    assert check([(file, "{stages: [s], jobs: [{name: a, stage: s}]}")]).pipelines[0].name == name
