"""The table of pytest's options that need care in a remote session, and which side applies them.

What is not in the table goes to the job as it was typed. pytest loads this module in every session, so it imports
nothing that pytest has not already imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

#: Which side applies an option: the local pytest, the job's, both, or neither because it is refused.
HERE: Final = "here"
JOB: Final = "job"
BOTH: Final = "both"
REFUSED: Final = "refused"

#: Title of our own options in the help.
TITLE: Final = "running the tests on a remote runner"
#: Prefix of our own options.
OWN_PREFIX: Final = "--remote-ci"


class Option(NamedTuple):
    """One option."""

    #: All spellings.
    names: tuple[str, ...]
    obeyed_by: str
    takes_value: bool = False
    #: Why it is refused with ``--remote-ci``.
    refused: str = ""
    #: Why it is refused with ``--remote-ci-pipeline``.
    refused_in_run: str = ""
    #: Why it is refused with ``--remote-ci-replay``.
    refused_in_replay: str = ""
    #: Hands the session over to a runner.
    hands_over: bool = False
    #: Shows an earlier job, so pytest's other options cannot change what ran.
    is_earlier: bool = False
    #: Describes a new job, so it has no effect on an earlier one.
    is_for_new_job: bool = False
    #: Asks a question that only a pytest with the project's conftests and plugins can answer; no test runs.
    is_question: bool = False
    #: Asks a question that the local pytest answers, even with ``--remote-ci``.
    is_local_question: bool = False
    #: Selects tests.
    selects: bool = False
    #: The value is an expression or a name, even if it looks like a path.
    is_expression: bool = False
    #: The value is a path that the job reads, so it must be in the project.
    reads_path: bool = False
    #: A file is written.
    writes_file: bool = False
    #: Belongs to a reporter: if the local pytest has it, a replay applies it locally, and the job does not get it.
    is_reporter: bool = False
    #: Name of the setting on the local pytest's `config.option` that a replay must reset, and its neutral value.
    resets: tuple[tuple[str, object], ...] = ()
    #: The setting (`pytest_remote_ci.config`) that it overrides, or adds to if it is repeatable; only for our own.
    setting: str = ""
    #: Keywords for a parser's `add_argument`; only for our own options.
    declaration: dict[str, object] | None = None


def _own(
    name: str,
    text: str,
    metavar: str | None = None,
    *,
    setting: str = "",
    refused_in_run: str = "",
    hands_over: bool = False,
    is_earlier: bool = False,
    is_for_new_job: bool = False,
    **declaration: object,
) -> Option:
    """Return one of our own options; without `metavar` and keywords for its declaration, it is a flag."""
    if metavar is not None:
        declaration["metavar"] = metavar
    takes_value = bool(declaration)
    if not takes_value:
        declaration["action"] = "store_true"
    return Option(
        (name,),
        HERE,
        takes_value=takes_value,
        refused_in_run=refused_in_run,
        hands_over=hands_over,
        is_earlier=is_earlier,
        is_for_new_job=is_for_new_job,
        setting=setting,
        declaration={**declaration, "help": text},
    )


_NO_TERMINAL: Final = (
    "the job has no terminal. Run the failing test without --remote-ci "
    "(PYTHONBREAKPOINT=0 disables breakpoint())"
)
_RUNS_SCRIPTS: Final = "it would run the scripts: use `remote-ci pipeline dry-run`"
_ONE_JOB: Final = "it works for a single job only; use --lf"
_ONE_PYTEST: Final = "it works for a single job only; use it with --remote-ci"
_NEW_RUN: Final = "selects tests for a new run; filter a replay with -k, -m, --deselect, paths or node ids"

#: Our own options, in the order of the help.
OWN: Final = (
    _own("--remote-ci", "run the tests on a runner and show their results here", hands_over=True),
    _own("--remote-ci-async", "submit, print the job's id and exit", hands_over=True),
    _own(
        "--remote-ci-attach",
        "show a job from its beginning until it ends",
        "JOB",
        hands_over=True,
        is_earlier=True,
        refused_in_run="it shows one job; `remote-ci pipeline status RUN --watch` shows a run",
    ),
    _own(
        "--remote-ci-replay",
        "show the stored results of a job that has ended",
        "JOB",
        hands_over=True,
        is_earlier=True,
        refused_in_run="it shows one job; `remote-ci pipeline report` shows a run",
    ),
    _own(
        "--remote-ci-pipeline",
        "run this pipeline of the project and show its tests in this session",
        "NAME",
        hands_over=True,
    ),
    _own("--remote-ci-dry-run", "list the files that would be sent, largest first", hands_over=True),
    _own(
        "--remote-ci-text",
        "show the remote pytest's output as text; record nothing",
        refused_in_run="use `remote-ci pipeline run` and `remote-ci pipeline logs`",
    ),
    _own(
        "--remote-ci-profile",
        "use the runner of this profile in the user file (environment: REMOTE_CI_PROFILE)",
        "NAME",
    ),
    _own("--remote-ci-url", "address of the runner (environment: REMOTE_CI_URL)", "URL", setting="url"),
    _own(
        "--remote-ci-api-key",
        "API key for the runner (better: environment variable REMOTE_CI_API_KEY)",
        "KEY",
        setting="api-key",
    ),
    _own(
        "--remote-ci-image",
        "base image of the job's container",
        "IMAGE",
        setting="image",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-python",
        "Python that runs the tests, or several: 3.10,3.13 (default: the version used here)",
        "3.X",
        setting="python",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-retries",
        "run the job again, N times at most, after a fault of the runner and after these exit codes: 2 or 2:1,137",
        "N[:CODES]",
        setting="retries",
        is_for_new_job=True,
        refused_in_run="its jobs have the key retries",
    ),
    _own(
        "--remote-ci-timeout",
        "stop the job after this time of testing, in seconds or as 10m",
        "TIME",
        setting="timeout",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-name",
        "a name for the job",
        "NAME",
        refused_in_run="a run has the name of its pipeline",
        setting="name",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-priority",
        "priority of the job in the queue",
        choices=["high", "normal", "low"],
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-cold",
        "start a new container, even if one waits for the next run of this project",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-network",
        "network that the tests may use",
        choices=["egress", "none"],
        setting="network",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-env",
        "pass this environment variable to the job; repeatable",
        "NAME",
        action="append",
        setting="env",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-artifact",
        "fetch files that match when the job ends; repeatable",
        "GLOB",
        action="append",
        setting="artifacts",
        is_for_new_job=True,
    ),
    _own(
        "--remote-ci-artifacts-dir",
        "folder for these files (default: .remote-ci-artifacts/JOB)",
        "DIR",
        setting="artifacts-dir",
    ),
)

#: Options of pytest and of plugins that need care.
FOREIGN: Final = (
    # Questions.
    Option(("-V", "-VV", "--version"), HERE, is_local_question=True),
    Option(("--cache-show",), HERE, is_local_question=True),
    Option(("-h", "--help"), HERE, is_local_question=True),
    Option(("--markers",), JOB, is_question=True, refused_in_run=_ONE_PYTEST),
    Option(("--fixtures", "--funcargs"), JOB, is_question=True, refused_in_run=_ONE_PYTEST),
    Option(("--fixtures-per-test",), JOB, is_question=True, refused_in_run=_ONE_PYTEST),
    # Options that need a terminal in the job.
    Option(("--pdb",), REFUSED, refused=_NO_TERMINAL),
    Option(("--trace",), REFUSED, refused=_NO_TERMINAL),
    Option(("--pdbcls",), REFUSED, takes_value=True, refused=_NO_TERMINAL),
    # Options for this machine. The decision about colours is sent as an option of the submission.
    Option(("--color",), HERE, takes_value=True),
    Option(("--basetemp",), HERE, takes_value=True),
    # Selection of tests.
    Option(("-k",), JOB, takes_value=True, selects=True, is_expression=True, resets=(("keyword", ""),)),
    Option(("-m",), JOB, takes_value=True, selects=True, is_expression=True, resets=(("markexpr", ""),)),
    Option(("--deselect",), JOB, takes_value=True, selects=True),
    Option(("--ignore",), JOB, takes_value=True, selects=True),
    Option(("--ignore-glob",), JOB, takes_value=True, selects=True),
    Option(("--lf", "--last-failed"), JOB, selects=True, refused_in_replay=_NEW_RUN, resets=(("lf", False),)),
    Option(("--ff", "--failed-first"), JOB, refused_in_replay=_NEW_RUN, resets=(("failedfirst", False),)),
    Option(("--nf", "--new-first"), JOB, refused_in_replay=_NEW_RUN, resets=(("newfirst", False),)),
    Option(
        ("--sw", "--stepwise"),
        JOB,
        refused_in_run=_ONE_JOB,
        refused_in_replay=_NEW_RUN,
        resets=(("stepwise", False),),
    ),
    Option(
        ("--sw-skip", "--stepwise-skip"),
        JOB,
        refused_in_run=_ONE_JOB,
        refused_in_replay=_NEW_RUN,
        resets=(("stepwise_skip", False),),
    ),
    Option(("--sw-reset", "--stepwise-reset"), JOB, resets=(("stepwise_reset", False),)),
    Option(("--collect-only", "--co"), BOTH, refused_in_run=_RUNS_SCRIPTS),
    Option(("--setup-plan",), JOB, refused_in_run=_RUNS_SCRIPTS),
    Option(("-x", "--exitfirst"), JOB, resets=(("maxfail", 0),)),
    Option(("--maxfail",), JOB, takes_value=True, resets=(("maxfail", 0),)),
    # Plugins and settings.
    Option(("-p",), BOTH, takes_value=True, is_expression=True),
    Option(
        ("-W", "--pythonwarnings"),
        JOB,
        takes_value=True,
        is_expression=True,
        resets=(("pythonwarnings", None),),
    ),
    Option(("-o", "--override-ini"), BOTH, takes_value=True),
    Option(("-c", "--config-file"), BOTH, takes_value=True, reads_path=True),
    Option(("--rootdir",), BOTH, takes_value=True, reads_path=True),
    Option(("--confcutdir",), BOTH, takes_value=True, reads_path=True),
    # Output.
    Option(("-r",), BOTH, takes_value=True, is_expression=True),
    Option(("-v", "--verbose"), BOTH),
    Option(("-q", "--quiet"), BOTH),
    Option(("-l", "--showlocals"), JOB),
    Option(("-s",), JOB),
    # pytest-xdist.
    Option(("-n", "--numprocesses"), JOB, takes_value=True),
    Option(("-d",), JOB),
    # Reports that a replay writes here, and the job, too, if the project's hooks can change them.
    Option(("--junitxml", "--junit-xml"), HERE, takes_value=True, writes_file=True, is_reporter=True),
    Option(("--junitprefix", "--junit-prefix"), HERE, takes_value=True, is_reporter=True),
    Option(("--html",), BOTH, takes_value=True, writes_file=True, is_reporter=True),
    Option(("--css",), BOTH, takes_value=True, is_reporter=True),
    Option(("--self-contained-html",), BOTH, is_reporter=True),
    Option(("--json-report",), BOTH, writes_file=True, is_reporter=True),
    Option(("--json-report-file",), BOTH, takes_value=True, writes_file=True, is_reporter=True),
    Option(("--json-report-summary",), BOTH, is_reporter=True),
    Option(("--json-report-indent",), BOTH, takes_value=True, is_reporter=True),
    Option(("--json-report-verbosity",), HERE, takes_value=True, is_reporter=True),
    Option(("--report-log",), HERE, takes_value=True, writes_file=True, is_reporter=True),
    Option(("--pastebin",), HERE, takes_value=True, is_reporter=True),
    Option(("--rich",), HERE, is_reporter=True),
    Option(("--force-sugar",), HERE, is_reporter=True),
    Option(("--teamcity",), HERE, is_reporter=True),
    Option(("--no-teamcity",), HERE, is_reporter=True),
    Option(("--jb-swapdiff",), HERE, is_reporter=True),
    # Files that only the tests' own process can write. They are fetched.
    Option(("--log-file",), JOB, takes_value=True, writes_file=True, resets=(("log_file", None),)),
    Option(("--benchmark-json",), JOB, takes_value=True, writes_file=True),
    Option(("--alluredir",), JOB, takes_value=True, writes_file=True, resets=(("allure_report_dir", None),)),
    Option(("--ctrf",), JOB, takes_value=True, writes_file=True, resets=(("ctrf", None),)),
    Option(
        ("--cucumberjson", "--cucumber-json"),
        JOB,
        takes_value=True,
        writes_file=True,
        resets=(("cucumber_json_path", None),),
    ),
    Option(
        ("--md-report-output",),
        JOB,
        takes_value=True,
        writes_file=True,
        resets=(("md_report_output", None),),
    ),
    Option(("--cov-report",), JOB, takes_value=True),
)

#: Any spelling → its option.
BY_NAME: Final[dict[str, Option]] = {name: option for option in (*OWN, *FOREIGN) for name in option.names}

OWN_NAMES: Final = frozenset(option.names[0] for option in OWN)


def declare(add: Callable[..., object]) -> None:
    """Declare our own options: `add` is a method of pytest's or argparse's parser."""
    for option in OWN:
        add(*option.names, **(option.declaration or {}))


def destination(option: Option) -> str:
    """Return the name of one of our own options on pytest's `config.option`."""
    return option.names[0].lstrip("-").replace("-", "_")


def takes_value(option: str) -> bool | None:
    """Return whether an option takes a value; None if it is not in the table."""
    found = BY_NAME.get(option)
    return None if found is None else found.takes_value


def names(is_wanted: Callable[[Option], object]) -> frozenset[str]:
    """Return all spellings of the options for which `is_wanted` is true."""
    return frozenset(name for name, option in BY_NAME.items() if is_wanted(option))
