"""Each kind of mistake in a definition is told with its place and key; scripts, images and matrices have rules."""

from __future__ import annotations

import textwrap

import pytest

from ci_runner.pipelines.check import Checked, check
from ci_runner.pipelines.planning import Choice, make_plan

FILE = ".pipelines/ci.yaml"


def checked(text: str) -> Checked:
    return check([(FILE, textwrap.dedent(text))])


def rejected(text: str) -> list[str]:
    """All problems of a text with errors, without the file's name."""
    found = checked(text)
    assert not found.is_valid
    return [str(problem).removeprefix(f"{FILE}:") for problem in found.problems]


@pytest.mark.case("B9")
@pytest.mark.parametrize(
    ("block", "commands"),
    [
        ("make\n  make test\n\n", ("make", "make test")),
        ("echo 'a b' # it's fine\nmake || true\n", ("echo 'a b' # it's fine", "make || true")),
        ("if a; then\n  b\nfi\n", ("if a; then\n  b\nfi",)),
        ("  for x in 1 2\n  do\n    b\n  done", ("for x in 1 2\ndo\n  b\ndone",)),
        ("cat <<END\nx\nEND\n", ("cat <<END\nx\nEND",)),
        ("echo 'a\nb'\n", ("echo 'a\nb'",)),
        ("make \\\n  test\nx\n", ("make \\\n  test\nx",)),
        ("a &&\nb\n", ("a &&\nb",)),
        ("f() {\n  x\n}\nf\n", ("f() {\n  x\n}\nf",)),
    ],
)
def test_a_block_is_split_into_lines_unless_they_belong_together(
    block: str, commands: tuple[str, ...]
) -> None:
    script = textwrap.indent(block, "      ")
    found = checked(f"stages: [s]\njobs:\n  - name: a\n    stage: s\n    script: |2\n{script}")
    assert found.problems == ()
    assert found.pipelines[0].jobs[0].script == commands


def test_an_image_with_braces_that_name_no_axis_is_warned_of() -> None:
    found = checked("{stages: [s], jobs: [{name: a, stage: s, matrix: {x: [1]}, image: 'a:{y}'}]}")
    assert [problem.message for problem in found.problems] == [
        "image 'a:{y}' of 'a (x=1)' uses a name that is not an axis of its matrix"
    ]


PARTS = [
    ("image: x, dockerImage: y", "jobs[0].dockerImage: job 'a' has 'image' twice; first in line 1"),
    ("image: x, docker: {image: y}", "jobs[0].docker: job 'a' has 'image' twice: here and by its own name"),
    ("python: 3", "jobs[0].python: 'python' of job 'a' must be a Python version such as \"3.12\", not 3"),
    (
        "env: [A]",
        "a table of variables and their values (to pass variables of your environment, use 'secrets')",
    ),
    ("env: {A B: 1}", "jobs[0].env.\"A B\": 'A B' is not a valid name of an environment variable"),
    ("env: {A: [1]}", "jobs[0].env.A: 'A' of job 'a' must be text, not a list"),
    (
        "secrets: [REMOTE_CI_API_KEY]",
        "REMOTE_CI_API_KEY cannot be passed to a job: its code",
    ),
    ("secrets: [A-B]", "jobs[0].secrets[0]: 'A-B' is not a valid name of an environment variable"),
    ("timeout: soon", "'timeout' of job 'a' must be seconds above 0, or a time such as \"90s\""),
    ("timeout: 0", "'timeout' of job 'a' must be seconds above 0"),
    ("retries: 11", "'retries' of job 'a' must be an integer from 0 to 10, not 11"),
    ("retries: {cuont: 1}", "unknown key 'cuont' in 'retries' of job 'a'; did you mean 'count'?"),
    (
        "retries: {exit-codes: [0]}",
        "jobs[0].retries.exit-codes[0]: 'exit-codes' of job 'a' must be an integer from 1",
    ),
    (
        "working_dir: ../x",
        "'working_dir' of job 'a' must be a path below the project, without '..', not '../x'",
    ),
    (
        "working_dir: /srv/x",
        "a path below the project, as the project's place in the container is the runner's choice, not '/srv/x'",
    ),
    ("working_dir: /app/../..", "'working_dir' of job 'a' must be a path below the project, without '..'"),
    ("packages: [-y]", "'-y' is not the name of a package"),
    ("packages: bash", "'packages' of job 'a' must be a list of names of packages"),
    ("working_dir: /application", "must be a path below the project, as the project's place"),
    (
        "matrix: {x: [/app]}, working_dir: '{x}'",
        "a (x=/app): '/app' must be a path below the project, without '..'",
    ),
    ("artifacts: [/etc]", "jobs[0].artifacts[0]: the pattern '/etc' must match paths inside the project"),
    (
        "artifacts: {when: now, paths: [x]}",
        "'when' of job 'a' must be \"always\", \"success\" or \"failure\", not 'now'",
    ),
    ("artifacts: {when: always}", "'artifacts' of job 'a' is missing 'paths'"),
    ("artifacts: {paths: x, retention: ever}", "jobs[0].artifacts.retention: 'retention' of job 'a' must be"),
    ("services: [{name: db}]", "jobs[0].services[0]: a service is missing 'image'"),
    ("services: {My_DB: 'x'}", "'My_DB' cannot be the host name by which the job reaches the service"),
    ("services: [postgres, 'x/postgres:1']", "jobs[0].services[1]: Duplicate service name 'postgres'"),
    (
        "services: [{image: x, ports: [0]}]",
        "jobs[0].services[0].ports[0]: 'ports' of job 'a' must be an integer",
    ),
    ("services: 7", "'services' of job 'a' must be a list of services, or a table of them by name, not 7"),
    ("resources: {cpus: 0}", "jobs[0].resources.cpus: 'cpus' of job 'a' must be a number above 0, not 0"),
    ("resources: {memory: much}", "'memory' of job 'a' must be a size such as \"2g\", not 'much'"),
    ("when: sometimes", "'when' of job 'a' must be a table with changed, tag, or \"always\" or \"never\""),
    ("when: {branch: x}", "unknown key 'branch' in 'when' of job 'a'; known: changed, tag"),
    ("matrix: {}", "'matrix' of job 'a' has no axis"),
    ("matrix: {x: []}", "axis 'x' is empty, so there is no job"),
    ("matrix: {x: [1, 1]}", "axis 'x' has the value '1' twice"),
    ("matrix: {x: 1}", "jobs[0].matrix.x: 'x' of job 'a' must be a list of values, not 1"),
    (
        "matrix: {x: [1], exclude: [{y: 1}]}",
        "exclude[0] must name axes of the matrix: 'y' is wrong or missing",
    ),
    (
        "matrix: {x: [1], y: [1], include: [{x: 2}]}",
        "include[0] must name each axis, and no other: 'y' is wrong",
    ),
    ("matrix: {x: [1], exclude: [{x: 1}]}", "the matrix of job 'a' excludes all of its cells"),
    ("matrix: {python: [pypy]}", "a (python=pypy): python must be a version such as '3.12', not 'pypy'"),
    (
        "matrix: {x: ['..']}, working_dir: '{x}'",
        "a (x=..): '..' must be a path below the project, without '..'",
    ),
    ("script: ['a: b': c]", "must be a string (a command with ': ' in it needs quotes), not a table"),
    ("script: '  '", "'script' of job 'a' cannot be empty"),
    ("args: -x", "'args' of job 'a' must be a list of strings, not '-x'"),
    ("docker: x", "'docker' of job 'a' must be a table with image, not 'x'"),
    ("image: [x]", "'image' of job 'a' must be text, not a list"),
    ('image: "a\\nb"', "'image' of job 'a' must be at most 500 printable characters"),
    ("retries: soon", "must be a number from 0 to 10, or a table with count, exit-codes, not 'soon'"),
    ("retries: {exit_codes: [1], exit-codes: [2]}", "'retries' of job 'a' has 'exit-codes' twice"),
    (
        "resources: 7",
        (
            "'resources' of job 'a' must be a table with cpus, memory, shm-size, tmp-size, home-size, file-size, "
            "open-files, not 7"
        ),
    ),
    (
        "resources: {shm-size: 10k}",
        "'shm-size' of job 'a' must be a size of at least 1 MiB, such as \"2g\", not '10k'",
    ),
    (
        "resources: {open-files: 1g}",
        "'open-files' of job 'a' must be an integer from 64 to 1048576, not '1g'",
    ),
    ("artifacts: {paths: [7]}", "'paths' of job 'a' must be text (in quotes: \"…\"), not 7"),
    ("artifacts: ['a\\b']", "contains a backslash: write / between folders"),
    ("when: {changed: 7}", "'changed' of job 'a' must be text or a list of patterns, not 7"),
    ("when: {tag: [7]}", "jobs[0].when.tag[0]: 'tag' of job 'a' must be text"),
    ("services: [7]", "'services' of job 'a' must be a table with name, image, env, health, ports, command"),
    (
        "services: [{image: x, name: job}]",
        "'job' cannot be the host name by which the job reaches the service",
    ),
    ("services: [a, b, c, d, e, f, g, h, i]", "'services' of job 'a': at most 8 services"),
    ("services: [{image: ''}]", "'image' of job 'a' cannot be empty"),
    ("services: [{image: x, command: y}]", "'command' of job 'a' must be a list of strings, not 'y'"),
    ("matrix: 7", "'matrix' of job 'a' must be a table of lists, not 7"),
    ("matrix: {1: [x]}", "'1' is not a valid name of an axis: begin with a letter"),
    ("matrix: {x: ['']}", "axis 'x': values must be 1 to 200 printable characters"),
    ("matrix: {x: [[1]]}", "'x' of job 'a' must be text, not a list"),
    ("matrix: {x: [1], include: [7]}", "'include' of job 'a' must be a table of axes and values, not 7"),
    (
        f"matrix: {{x: {list(range(17))}, y: {list(range(17))}}}",
        "'matrix' of job 'a' has more than 256 cells",
    ),
    (f"matrix: {{x: {list(range(300))}}}", "'x' of job 'a' must be at most 256 values"),
    (f"matrix: {{x: [1], exclude: {[{'x': 2}] * 65}}}", "'matrix' of job 'a' excludes more than 64 times"),
    (
        f"matrix: {{{', '.join(f'{c}: [{c * 190}]' for c in 'pqrstu')}}}",
        "a cell's name is longer than 1000 characters",
    ),
    (
        "matrix: {x: ['../']}, artifacts: ['{x}y']",
        "a (x=../): the pattern '../y' must match paths inside the project",
    ),
    ("matrix: {x: [1]}}, {name: a (x=1), stage: s", "'a (x=1)' is also the name of a cell of a matrix"),
    ("name: b", "jobs[0].name: the key 'name' occurs twice; first in line 1"),
]


@pytest.mark.parametrize(("body", "message"), PARTS, ids=[row[0] for row in PARTS])
def test_each_part_of_a_job_is_checked(body: str, message: str) -> None:
    assert message in "\n".join(rejected(f"{{stages: [s], jobs: [{{name: a, stage: s, {body}}}]}}"))


def test_a_run_has_a_thousand_jobs_at_most() -> None:
    jobs = "".join(f"  - {{name: j{number}, stage: s, matrix: *m}}\n" for number in range(5))
    text = f"x-m: &m {{x: {list(range(16))}, y: {list(range(16))}}}\nstages: [s]\njobs:\n{jobs}"
    assert rejected(text) == ["1:1: 1280 jobs; a run has at most 1000"]


EMPTY = "'script' of job 'b' is empty: the job does nothing (remove the key to run pytest)"


def test_what_is_odd_is_only_warned_of() -> None:
    found = checked("""\
        stages: [s]
        jobs:
          - {name: a, stage: s, script: x, args: [y]}
          - {name: b, stage: s, script: []}
          - {name: c, stage: s, when: {changed: []}}
          - {name: d, stage: s, when: {tag: true}, matrix: {include: [{x: 1}, {x: 1}, {x: 2}]}}
        """)
    assert [str(problem).removeprefix(f"{FILE}:") for problem in found.problems] == [
        "3:12: warning: jobs[0]: 'args' of job 'a' are not used: they are pytest's, and the job has a script",
        f"4:33: warning: jobs[1].script: {EMPTY}",
        "5:41: warning: jobs[2].when.changed: 'changed' of job 'c' is empty: no change ever matches",
    ]
    plan = make_plan(found.pipelines[0], Choice(tag="any/tag"))
    assert [job.name for job in plan.jobs if not job.skipped] == ["a", "b", "d (x=1)", "d (x=2)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{stages: [s], image: x}", "1:15: image: 'image' belongs to a job, or to 'global' for all jobs"),
        ("{stages: [s], job: []}", "1:15: job: unknown key 'job' in the pipeline; did you mean 'jobs'?"),
        ("{stages: [s], global: {nmae: x}}", "unknown key 'nmae' in 'global'"),
        (
            "{stages: [{name: s, timeout: soon}]}",
            "1:30: stages[0].timeout: 'timeout' of stage 0 must be seconds above 0",
        ),
        ("{stages: [{name: s, timout: 1}]}", "unknown key 'timout' in stage 0; did you mean 'timeout'?"),
        ("{stages: [s], global: 7}", "1:23: global: 'global' must be a table, not 7"),
        ("{stages: [], jobs: []}", "1:10: stages: 'stages' is empty: name at least one stage"),
        ("{stages: [a/b]}", "the stage's name 'a/b' must not contain '/'"),
        ("{name: a/b, stages: [s]}", "the pipeline's name 'a/b' must not contain '/'"),
        ("{stages: [{name: s, jobs: [{name: a}]}], jobs: []}", "jobs are defined here and in their stages"),
        (
            "{pipeline: {stages: [s]}, stages: [t]}",
            "1:27: stages: 'stages' occurs twice: here and below 'pipeline'",
        ),
        (
            "{pipeline: 7, stages: [s]}",
            "1:12: pipeline: 'pipeline' must be a table, or the pipeline's name, not 7",
        ),
        ("{stages: [s], jobs: [{name: a}]}", "1:29: jobs[0]: Job 'a' is missing 'stage' field"),
        ("{stages: [s], jobs: [{name: a, stage: }]}", "Job 'a' has empty stage reference"),
        (
            "stages: [s\n",
            "2:1: not valid YAML: while parsing a flow sequence did not find expected ',' or ']'",
        ),
        (
            "a: !!python/name:os.system x",
            "1:4: the tag 'tag:yaml.org,2002:python/name:os.system' is not supported",
        ),
        ("stages: *x", "1:9: there is no anchor &x before this"),
        ("stages: &x [*x]", "1:9: contains itself by an alias"),
        ("a: &x 1\nb: &x 2", "2:4: the anchor &x occurs twice; first in line 1"),
        ("a: 1\n---\nb: 2", "2:1: a second document: a file defines one pipeline"),
        ("[1]: 2", "1:1: a key must be text, not a list or a table"),
        ("- a", "1:1: Error parsing pipeline YAML: a pipeline is a map with 'stages'"),
    ],
)
def test_each_part_of_a_pipeline_is_checked(text: str, message: str) -> None:
    assert message in "\n".join(rejected(text))


def test_jobs_that_can_never_run_are_told() -> None:
    assert rejected("""
        stages: [s, t]
        jobs:
          - {name: early, stage: s, needs: late}
          - {name: late, stage: t}
          - {name: off, stage: s, when: never}
          - {name: after, stage: s, needs: [off]}
          - {name: last, stage: t, needs: [late, after]}
        """) == [
        "4:36: jobs[0].needs: Job 'early' can never run: it needs 'late' of the later stage 't'",
        "7:37: jobs[3].needs[0]: Job 'after' can never run: it needs 'off', which 'when' always leaves out",
        "8:42: jobs[4].needs[1]: Job 'last' can never run: it needs 'off', which 'when' always leaves out",
    ]


TOML = """\
[tool.remote-ci.pipelines.ci]
stages = ["s"]
[tool.remote-ci.pipelines.ci.jobs."a b"]
stage = "s"
need = ["x"]
[[tool.remote-ci.pipelines.ci.jobs."a b".services]]
name = "db"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TOML,
            ": tool.remote-ci.pipelines.ci.jobs.\"a b\".need: unknown key 'need' in job 'a b'; did you",
        ),
        (TOML, ": tool.remote-ci.pipelines.ci.jobs.\"a b\".services[0]: a service is missing 'image'"),
        (
            "[tool.remote-ci]\npipelines = 7",
            ": tool.remote-ci.pipelines: 'pipelines' must be a table, not 7",
        ),
        (
            "[tool.remote-ci.pipelines]\nci = 7",
            ": tool.remote-ci.pipelines.ci: 'ci' must be a table: a pipeline",
        ),
        (
            "[tool.remote-ci.pipelines.ci]\nstages = ['s']\njobs = 7",
            "'jobs' must be a list or a table, not 7",
        ),
        (
            "[tool.remote-ci.pipelines.ci]\nstages = ['s']\njobs.a = {stage = 's', name = 'b'}",
            ": tool.remote-ci.pipelines.ci.jobs.a.name: the name of the table, 'a', is the job's name; remove 'name'",
        ),
        ("a = [1", ":1:7: not valid TOML: Unclosed array"),
        ("a = 1\na = 2", ":2:6: not valid TOML: Cannot overwrite a value"),
    ],
)
def test_mistakes_in_toml_name_the_path_of_the_key(text: str, message: str) -> None:
    found = check([("pyproject.toml", text)])
    said = [str(problem) for problem in found.problems]
    if message.startswith(":"):
        assert [line for line in said if line.startswith(f"pyproject.toml{message}")], said
    else:
        assert [line for line in said if line.endswith(message)], said
