"""The portable cases of the second reference system, the one with pipelines; `conformance` makes the page of both."""

from __future__ import annotations

CASES = """
Checking a pipeline
B1 A valid file: exit code 0.
B2 A file with mistakes: exit code 1.
B3 A file that is no YAML by its name: exit code 1.
B4 A file in no project: exit code 1.
The plan without a run
B5 Two stages, one job needs the other: both jobs are shown.
B6 Stages without jobs: their names are shown.
B7 A job without a script.
B8 A script of one line.
B9 A script that is a block of lines: each is a command.
B10 A script that is a list.
B11 A script that is an empty list.
B12 A job without a name.
B13 The image's four spellings.
B14 Jobs in their stages.
Accepted pipelines
B15 Jobs in their stages.
B16 Jobs below `jobs`.
B17 Four stages and five jobs.
B18 Stages as maps with a name.
B19 A script of one line.
B20 A script that is a list.
B21 Diamonds and several dependencies.
B22 No dependencies.
B23 No jobs.
B24 An image with an odd name: a warning only.
B25 A job in a stage that names its stage.
B26 "True" where a flag belongs.
Rejected pipelines
B27 A file that is not there.
B28 An empty file.
B29 No stages.
B30 Stages that are no list.
B31 A stage that is a number.
B32 A stage that is an empty map.
B33 A stage with a blank name.
B34 Two stages with one name.
B35 Jobs that are no list.
B36 A job that is no map.
B37 Two jobs with one name.
B38 An image that is empty.
B39 `allow_failure: maybe`.
B40 A script that is a number.
B41 A dependency that does not exist.
B42 A job that needs itself.
B43 A cycle of three jobs.
B44 A dependency that is a number.
Running and reporting
B45 A local run needs a file or a repository.
B46 With a file alone, the repository is found.
B47 Outside of a repository: an error.
B48 `run --dry-run` is `dry-run`.
B49 Names of repositories from their addresses.
B50 `status`: exit codes of answers and errors.
B51 `report --job` without `--stage`: exit code 1.
B52 Six shapes of reports.
B53 Reports as JSON.
B54 Reports as text.
B55 Unknown formats and shapes.
B56 Times in reports.
B57 A refusal of the server: exit code 1.
The service
B58 It says that it is up.
B59 A run is accepted as pending; what is wrong is said.
B60 The tree of statuses; unknown pipelines, runs, stages and jobs.
B61 The status of a run from those of its stages.
B62 Newest run first; what is not found.
B63 Finding the pipeline in a project.
B64 Repository, branch and name that are not given.
B65 Stages one after the other; empty ones are passed over.
B66 Jobs that nobody knows; counting and cancelling.
B67 A failed job that is allowed to fail.
B68 Jobs that cannot run.
B69 Artifacts: files, folders, missing ones.
B70 A final status sets the time of the end once.
B71 The form of errors.
Messages and names
B72 Mistakes begin with file, line and column; several are lines.
B73 A stage from text, from a number, from a map.
B74 Names of pipelines are unique whatever their case; a missing folder is an error.
Usage of the system with pipelines
B75 `check --file` and `dry-run --file` with a pipeline in that system's form.
B76 `run --file`, with and without `--dry-run`.
B77 `status --pipeline NAME`.
B78 `report --pipeline NAME`, with `--run`, `--stage` and `--job`.
B79 `--verbose`.
"""

#: What that system does wrong, by number; the tests that show that ours does not carry `pytest.mark.defect`.
DEFECTS: dict[int | str, str] = {
    1: "File, commit, pipeline and the wish for a local run never reach what is executed.",
    2: "Jobs in their stages cannot run: their working folder is taken for the address of a repository.",
    3: "The number of a run is always 0.",
    4: "From the second run of a pipeline on, its status and the report of a run fail.",
    5: "The statuses of stages and pipelines stay PENDING until somebody asks for them.",
    6: "A good stage after a failed one makes the whole a success.",
    7: "The time of the start is that of the submission.",
    8: "The second run tests the files of the first.",
    9: "The order of a script's commands is undefined; the rules of the database's schema never hold.",
    10: "Cancelling stops no container, and a late result takes the place of the cancellation.",
    11: "A second run at the same time is a conflict of names; only one host's repositories will do.",
    12: "Mistakes in a definition are unexpected errors without a place.",
    13: "The level of the log cannot be set.",
    14: "Names with spaces break the addresses of reports.",
    15: "The suffix of a file's name stays in the pipeline's.",
    16: "Passwords stand in the code; texts are put into JSON as they come.",
}

#: Where ours differs on purpose, and why.
DIFFERENCES: dict[int | str, str] = {
    "B4": "any project will do, git or not: what runs is the working tree",
    "B7": "no script means pytest, and the plan shows its command",
    "B12": "it is named with its place, as `check` does, and nothing is planned",
    "B27": "`check` without a file looks for all; a missing folder and a missing file are told by name",
    "B37": "unique in the whole pipeline: `needs`, reports and reruns name jobs without their stage",
    "B45": "no run is local; without a file the project's own pipelines run, and a folder without any is refused",
    "B46": "the file's pipeline runs on the project around it; nothing is cloned",
    "B49": "nothing is cloned: the working tree is sent, and no address of a repository is needed",
    "B50": "0 when all is well, 1 when the run failed, 4 when it is unknown or not named, 69 when no runner answers, "
    "70 when the run was cancelled, 77 when the key is refused",
    "B51": "exit code 4: wrong usage",
    "B55": "an unknown format is wrong usage (exit code 4); a shape that is not known is shown as JSON",
    "B57": "exit code 4 for a configuration or a name that is wrong, else 70",
    "B58": "`ok`, as the first reference system has it",
    "B59": "queued, which reports call PENDING; what is wrong is a 422 with `detail`",
    "B63": "the definition of the tree that was sent, whichever of several is named",
    "B64": "no repository and no branch is asked for; a pipeline without a name is called as its file",
    "B65": "a job starts as soon as what it needs is done; stages only add such needs",
    "B66": "202 also when it is being cancelled, 409 when it is over, 404 when nobody knows it",
    "B67": "the job stays FAILED, and the run goes on",
    "B71": "always `detail` and nothing else",
    "B75": "`working_dir: /app` is the project's own folder, with a warning; every other absolute path is refused, as "
    "the project's place in the container is the runner's choice",
    "B76": "`--local`, `--repo`, `--branch` and `--commit` do not exist: what runs is the working tree here, on the "
    "configured runner or, without one, on this machine; the run's result is printed, not `success` or `failed`",
    "B77": "stages and jobs as text, with the run's exit code once it is over",
    "B78": "runs are numbered from 1",
    "B79": "after the command, without `--vv`; it shows the requests to the runner on stderr",
    "B73": "a number is refused here, too: 1 and 1.0, 010 and 8 would be one stage",
}
