"""From definitions to plans: matrices, defaults, stages as needs, choices, and what is left out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pytest

from ci_runner.errors import InvalidSubmission
from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.matrix import substitute
from ci_runner.pipelines.plan import Plan, PlannedJob, Retries, Service
from ci_runner.pipelines.planning import Choice, make_plan


def plan(text: str, choice: Choice | None = None) -> Plan:
    """The plan of the only pipeline ``ci`` of a pyproject.toml, whose table is `text`."""
    found = check([("pyproject.toml", f"[tool.remote-ci.pipelines.ci]\n{textwrap.dedent(text)}")])
    assert [str(problem) for problem in found.problems] == []
    made = make_plan(choose(found, None), choice)
    assert Plan.from_dict(made.to_dict()) == made
    return made


def needs(made: Plan) -> dict[str, tuple[str, ...]]:
    return {job.name: job.needs for job in made.jobs}


def only(made: Plan) -> PlannedJob:
    (job,) = made.jobs
    return job


THREE = """
    stages = ["build", "nothing", "test", "report"]
    jobs.unit = { stage = "test", needs = ["wheel"] }
    jobs.summary = { stage = "report", needs = ["unit"] }
    jobs.wheel = { stage = "build", script = "make" }
    jobs.lint = { stage = "build", script = "ruff check" }
    jobs.slow = { stage = "test", needs = ["unit"] }
    """


@pytest.fixture(autouse=True)
def no_warning_of_empty_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci_runner.pipelines.source.tree.Problems.warn", lambda *_: None)


@pytest.mark.case("B65")
def test_stages_only_add_needs_and_an_empty_one_adds_none() -> None:
    assert needs(plan(THREE)) == {
        "wheel": (),
        "lint": (),
        "unit": ("wheel", "lint"),
        "slow": ("unit", "wheel", "lint"),
        "summary": ("unit", "slow"),
    }


def test_artifacts_come_from_what_the_definition_names() -> None:
    assert {job.name: job.artifacts_from for job in plan(THREE).jobs if job.artifacts_from} == {
        "unit": ("wheel",),
        "slow": ("unit",),
        "summary": ("unit",),
    }


def test_jobs_are_in_the_order_of_stages_then_of_the_file() -> None:
    assert [job.name for job in plan(THREE).jobs] == ["wheel", "lint", "unit", "slow", "summary"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(jobs=("unit",)), {"wheel": (), "unit": ("wheel",)}),
        (Choice(jobs=("summary",)), {"wheel": (), "unit": ("wheel",), "summary": ("unit",)}),
        (Choice(jobs=("lint", "unit")), {"wheel": (), "lint": (), "unit": ("wheel", "lint")}),
        (Choice(stages=("build",)), {"wheel": (), "lint": ()}),
        (Choice(stages=("report",)), {"wheel": (), "unit": ("wheel",), "summary": ("unit",)}),
        (Choice(stages=("nothing",)), {}),
        (Choice(stages=("test",), jobs=("unit",)), {"wheel": (), "unit": ("wheel",)}),
    ],
)
def test_a_chosen_job_runs_with_what_it_names_as_needs(
    choice: Choice, expected: Mapping[str, tuple[str, ...]]
) -> None:
    assert needs(plan(THREE, choice)) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(jobs=("unti",)), "no job 'unti' in pipeline 'ci'; did you mean 'unit'?"),
        (Choice(stages=("tset",)), "no stage 'tset' in pipeline 'ci'; did you mean 'test'?"),
        (Choice(stages=("build",), jobs=("unit",)), "job 'unit' is not in stage 'build'"),
    ],
)
def test_an_unknown_choice_is_refused(choice: Choice, message: str) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        plan(THREE, choice)
    assert str(caught.value) == message


MATRIX = """
    stages = ["test", "report"]
    [tool.remote-ci.pipelines.ci.jobs.tests]
    stage = "test"
    image = "py:{python}-${db}"
    args = ["--db={db}", "${HOME}", "{other}"]
    env = { DB = "{db}" }
    script = ["echo ${db}", "test {a,b}"]
    working-dir = "sub/{db}"
    artifacts = ["{db}/*.xml"]
    [tool.remote-ci.pipelines.ci.jobs.tests.matrix]
    python = [3.10, "3.12"]
    db = ["pg", "none"]
    exclude = [{ python = "3.10", db = "none" }]
    [[tool.remote-ci.pipelines.ci.jobs.tests.services]]
    image = "example.org/{db}:17"
    name = "db"
    health = "ready {db}"
    [[tool.remote-ci.pipelines.ci.jobs.tests.matrix.include]]
    python = "3.13"
    db = "sqlite"
    [tool.remote-ci.pipelines.ci.jobs.report]
    stage = "report"
    needs = ["tests"]
    [tool.remote-ci.pipelines.ci.jobs.one]
    stage = "report"
    needs = ["tests (python=3.12, db=pg)"]
    """


def test_a_matrix_is_the_product_without_what_is_excluded_and_with_what_is_included() -> None:
    made = plan(MATRIX)
    cells = [job.name for job in made.jobs if job.definition == "tests"]
    assert cells == [
        "tests (python=3.10, db=pg)",
        "tests (python=3.12, db=pg)",
        "tests (python=3.12, db=none)",
        "tests (python=3.13, db=sqlite)",
    ]
    assert needs(made)["report"] == tuple(cells)
    [report] = [job for job in made.jobs if job.name == "report"]
    assert report.artifacts_from == tuple(cells), "the need names all cells, whatever the stages add"
    one = made.jobs[-1]
    assert (one.needs[0], one.artifacts_from) == (cells[1], (cells[1],))
    assert set(one.needs) == set(cells), "the stage before adds the other cells"


def test_a_cell_s_values_stand_where_its_axes_are_named() -> None:
    job = plan(MATRIX).jobs[1]
    assert dict(job.cell) == {"python": "3.12", "db": "pg"}
    assert (job.image, job.python) == ("py:3.12-pg", "3.12")
    assert job.args == ("--db=pg", "${HOME}", "{other}")
    assert dict(job.env) == {"DB": "pg"}
    assert job.script == ("echo pg", "test {a,b}")
    assert (job.working_dir, job.artifacts) == ("sub/pg", ("pg/*.xml",))
    assert job.services == (Service("db", "example.org/pg:17", health="ready pg"),)


@pytest.mark.parametrize(
    ("own", "image", "python"),
    [
        ("", "a", "3.12"),
        ('image = "base"\npython = "3.9"', "a", "3.12"),  # a default of all jobs, say
        ('image = "x/{image}:1"\npython = "3.1{minor}"', "x/a:1", "3.12"),
    ],
)
def test_axes_named_python_and_image_set_these(own: str, image: str, python: str) -> None:
    job = only(
        plan(f"""
stages = ["s"]
[tool.remote-ci.pipelines.ci.jobs.a]
stage = "s"
matrix = {{ image = ["a"], python = ["3.12"], minor = [2] }}
{own}
""")
    )
    assert (job.image, job.python) == (image, python)


def test_a_value_that_looks_like_an_axis_is_not_replaced_again() -> None:
    assert substitute("{a} ${b} {c}", {"a": "{b}", "b": "x"}) == "{b} x {c}"


def test_a_job_overrides_the_defaults_and_adds_variables() -> None:
    made = plan("""
        stages = ["s"]
        keep-going = true
        [tool.remote-ci.pipelines.ci.global]
        image = "base"
        env = { A = 1, B = true }
        timeout = "1h 30m"
        retries = { count = 2, exit-codes = [75] }
        resources = { cpus = 1.5, memory = "2g", shm-size = "1g", open_files = 9000 }
        artifacts = "*.xml"
        secrets = ["TOKEN", "TOKEN"]
        [tool.remote-ci.pipelines.ci.jobs.a]
        stage = "s"
        [tool.remote-ci.pipelines.ci.jobs.b]
        stage = "s"
        image = "own"
        env = { B = 2 }
        timeout = 30
        retries = 0
        resources = { memory = 1048576, shmSize = "2m", tmp-size = "3m", home-size = "4m", file-size = "5m" }
        artifacts = { paths = [], when = "failure", retention = "12h" }
        secrets = []
        allow-failure = true
        """)
    a, b = made.jobs
    assert made.keep_going
    assert a == PlannedJob(
        name="a",
        definition="a",
        stage="s",
        image="base",
        env={"A": "1", "B": "true"},
        timeout=5400.0,
        retries=Retries(2, (75,)),
        cpus=1.5,
        memory=2 << 30,
        shm_size=1 << 30,
        open_files=9000,
        artifacts=("*.xml",),
        secrets=("TOKEN",),
    )
    assert b == PlannedJob(
        name="b",
        definition="b",
        stage="s",
        image="own",
        env={"A": "1", "B": "2"},
        timeout=30.0,
        cpus=1.5,
        memory=1048576,
        shm_size=2 << 20,
        tmp_size=3 << 20,
        home_size=4 << 20,
        file_size=5 << 20,
        open_files=9000,
        artifacts_when="failure",
        artifacts_days=0.5,
        allow_failure=True,
    )


def test_a_stage_has_a_timeout_in_both_forms() -> None:
    toml = plan("""
        stages = ["build", { name = "test", timeout = "20m" }, { name = "idle", timeout = 90 }]
        jobs.a.stage = "build"
        jobs.b.stage = "test"
        """)
    yaml = """
        name: ci
        stages:
          - name: build
            jobs: [{name: a}]
          - {name: test, timeout: 20m, jobs: [{name: b}]}
          - {name: idle, timeout: 90}
        """
    assert toml.stages == ("build", "test", "idle")
    assert toml.stage_timeouts == {"test": 1200.0, "idle": 90.0}
    assert make_plan(choose(check([("ci.yaml", textwrap.dedent(yaml))]), None)) == toml


WHEN = """
    stages = ["build", "docs", "release"]
    jobs.build = { stage = "build" }
    jobs.docs = { stage = "docs", when = { changed = ["docs", "**/*.md"] } }
    jobs.publish = { stage = "release", when = { tag = "v*" } }
    jobs.announce = { stage = "release", needs = ["publish"] }
    jobs.site = { stage = "release", needs = ["docs"] }
    jobs.last = { stage = "release" }
    """


@pytest.mark.parametrize(
    ("choice", "left_out"),
    [
        (Choice(), {"publish", "announce"}),
        (Choice(tag="v1.0"), set()),
        (Choice(tag="1.0"), {"publish", "announce"}),
        (Choice(tag="v1", changed=("src/a.py",)), {"docs", "site"}),
        (Choice(tag="v1", changed=("src/a.py", "docs/a/b.rst")), set()),
        (Choice(tag="v1", changed=("src/readme.md",)), set()),
        (Choice(changed=()), {"docs", "site", "publish", "announce"}),
        pytest.param(
            Choice(tag="v1", changed=("src/a.py",) * 10_001), set(), id="too many to compare: as if unknown"
        ),
        (Choice(changed=(), jobs=("announce", "site")), set()),
        (Choice(changed=(), stages=("docs",)), {"docs"}),
    ],
)
def test_jobs_are_left_out_by_what_changed_and_by_the_tag(choice: Choice, left_out: set[str]) -> None:
    made = plan(WHEN, choice)
    assert {job.name for job in made.jobs if job.skipped} == left_out


def test_it_is_said_why_a_job_is_left_out() -> None:
    reasons = {job.name: job.skipped for job in plan(WHEN, Choice(changed=(), tag="1")).jobs if job.skipped}
    assert reasons == {
        "docs": "nothing changed that matches docs, **/*.md",
        "site": "needs 'docs', which is left out",
        "publish": "tag '1' does not match (v*)",
        "announce": "needs 'publish', which is left out",
    }


def test_who_waits_for_a_stage_that_is_left_out_waits_for_the_one_before() -> None:
    assert needs(plan(WHEN, Choice(changed=())))["last"] == ("build",)
    assert needs(plan(WHEN, Choice()))["last"] == ("docs",)


@pytest.mark.parametrize("given", [True, False])
def test_who_starts_a_run_may_choose_whether_it_goes_on(given: bool) -> None:
    text = f'stages = ["s"]\nkeep-going = {str(not given).lower()}\njobs.a = {{stage = "s"}}'
    assert plan(text).keep_going is not given
    assert plan(text, Choice(keep_going=given)).keep_going is given


@pytest.mark.parametrize(
    ("written", "folder"),
    [("sub", "sub"), ("./sub//deep/.", "sub/deep"), ("sub\\\\deep", "sub/deep"), (".", "")],
)
def test_working_folders_are_written_in_one_way(written: str, folder: str) -> None:
    text = f'stages = ["s"]\njobs.a = {{stage = "s", working-dir = "{written}"}}'
    assert only(plan(text)).working_dir == folder


@pytest.mark.parametrize(
    ("written", "folder"), [("/app", ""), ("/app/", ""), ("/app/sub", "sub"), ("/app/{db}", "pg")]
)
def test_the_place_of_the_project_in_other_systems_is_the_project(written: str, folder: str) -> None:
    text = f'stages = ["s"]\njobs.a = {{stage = "s", matrix = {{db = ["pg"]}}, working-dir = "{written}"}}'
    assert only(plan(text)).working_dir == folder


LEFT_OUT = """
    stages = ["s", "t", "u"]
    jobs.never = { stage = "s", when = "never" }
    jobs.tagged = { stage = "s", when = { tag = ["v*", "w*"] } }
    jobs.docs = { stage = "s", when = { changed = ["docs", "*.md"] } }
    jobs.user = { stage = "t", needs = ["docs"] }
    jobs.last = { stage = "u", needs = ["user"] }
    """


@pytest.mark.parametrize(
    ("choice", "reasons"),
    [
        (Choice(tag="v1"), {"never": "'when' always leaves it out"}),
        (
            Choice(),
            {"never": "'when' always leaves it out", "tagged": "the run is for no tag (v*, w*)"},
        ),
        (
            Choice(tag="x", changed=("src/a.py",)),
            {
                "never": "'when' always leaves it out",
                "tagged": "tag 'x' does not match (v*, w*)",
                "docs": "nothing changed that matches docs, *.md",
                "user": "needs 'docs', which is left out",
                "last": "needs 'user', which is left out",
            },
        ),
    ],
)
def test_why_a_job_is_left_out(choice: Choice, reasons: dict[str, str]) -> None:
    assert {job.name: job.skipped for job in plan(LEFT_OUT, choice).jobs if job.skipped} == reasons


def test_a_job_is_named_by_its_definition_or_its_cell() -> None:
    text = 'stages = ["s", "t"]\njobs.a = {stage = "s", matrix.x = ["1", "2"]}\njobs.b = {stage = "t", needs = ["a"]}'
    assert [job.name for job in plan(text, Choice(jobs=("a",))).jobs] == ["a (x=1)", "a (x=2)"]
    assert [job.name for job in plan(text, Choice(jobs=("a (x=2)",))).jobs] == ["a (x=2)"]
    assert needs(plan(text))["b"] == ("a (x=1)", "a (x=2)")
    with pytest.raises(InvalidSubmission, match="no job 'a \\(x=3\\)' in pipeline 'ci'"):
        plan(text, Choice(jobs=("a (x=3)",)))
    with pytest.raises(InvalidSubmission, match=r"job 'b' is not in stage 's'$"):
        plan(text, Choice(jobs=("b",), stages=("s",)))
    three = text.replace('"t"]\njobs.a', '"t", "u"]\njobs.a')
    with pytest.raises(InvalidSubmission, match=r"job 'b' is not in stage 's' or 'u'$"):
        plan(three, Choice(jobs=("b",), stages=("s", "u")))
