"""The portable cases of the reference systems: what each says, where ours differs on purpose, which tests show it.

`PYTHONPATH=tests python -m compat.conformance` writes docs/reference/conformance.md; tests/compat/test_conformance.py
fails while it is out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from compat import conformance_pipelines

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "conformance.md"
REPOSITORY = "https://github.com/pytest-remote-ci/pytest-remote-ci/blob/main"

#: ``12`` is a case of the first reference system, ``"B12"`` one of the second.
Number = int | str

#: What the first reference system does wrong; ``pytest.mark.defect("A1")`` shows that ours does not.
DEFECTS: dict[Number, str] = {
    "A1": "The server cannot be imported by Pythons that it claims to support.",
    "A2": "A backslash and an n stand at the end of a line that users see.",
    "A3": "`failed` and `cancelled` are overwritten by `completed` or never set.",
    "A4": "A job that was queued at the start is started twice.",
    "A5": "The stream of a job that waits for longer than 45 s ends with a failure.",
    "A6": "Asking for news of a running job gives all of its past.",
    "A7": "pytest's exit code is lost: there is only 0 and 1.",
    "A8": "Ctrl-C says that the job is cancelled, and it goes on.",
    "A9": "A project below a hidden folder is sent without files.",
    "A10": "One slow build holds all other jobs up.",
    "A11": "Why an environment could not be built is never told to its user.",
    "A12": "300 s of silence are a failure to the client: there is no heartbeat.",
    "A13": "Lines of over 64 KiB, or that are not UTF-8, break the stream.",
    "A14": "Images, containers and temporary files of jobs stay for ever.",
    "A15": "Containers of others are removed when their names look alike.",
    "A16": "The project's own `Dockerfile` is overwritten, its `.dockerignore` is not sent.",
    "A17": "Several servers need a shared `/tmp`.",
    "A18": "Times have both an offset and a Z.",
    "A19": "Two processes share a database without a write-ahead log; uploads are read into memory whole.",
    "A20": "Ctrl-C during `list` or `submit --async` is a traceback.",
}

_CASES = """
Submitting and following
1 A passing project, submitted and followed: exit code 0, both tests are named, "passed" is said.
2 A project with failing tests: exit code 1, the tests are named, "failed" is said.
3 A project with a syntax error: an exit code other than 0, and the error is shown.
4 Submitting without waiting: exit code 0 and an id of 36 characters.
5 Waiting for all of a passing job afterwards: exit code 0 and the whole log.
6 The same for a failing job: exit code 1.
7 Waiting for a job that nobody knows: exit code 1, "not found".
8 Ctrl-C while following a submission: exit code 130, "cancelled", no traceback.
9 Ctrl-C while waiting: exit code 130; the job goes on, and how to come back is said.
10 Waiting, from now on, for a job that is over: exit code 0, "already completed", no test output.
11 The list after two jobs: both, with success and times, as JSON; a table with headers, ids and marks.
12 A restart of the server: jobs are listed with the same times, and the log can still be had.
Keys on the client's side
13 Submitting without a key: exit code 1, authentication is named.
14 Submitting with a wrong key: exit code 1.
15 Submitting with a good key: the job's id.
16 Listing without a key: exit code 1.
17 Listing with a key: a JSON array.
18 Waiting, without a key, for an unknown job: the key is missing, not the job.
19 A key works until it is revoked.
20 The key is taken from the environment.
21 The key is taken from the configuration file in the home folder.
22 The key is taken from the command line.
23 The command line goes before the environment.
24 A missing key is explained, with the ways to give one.
25 Two users each list their own jobs only.
26 Waiting for another user's job: exit code 1, access denied.
Administration
27 Creating a user shows address and id.
28 A second user with the same address is refused.
29 The list shows all users.
30 The list as JSON has the documented fields.
31 A user is found by id.
32 A user is found by address.
33 A deactivated user is shown as inactive.
34 An activated user is shown as active.
35 A new key has the documented form and is shown once, with a warning.
36 A key is made for a user named by address.
37 The list of keys shows names and never a key.
38 The list of keys as JSON has no hash.
39 A revoked key is no longer active.
40 The list of all keys shows every owner.
41 A key for an unknown user is refused.
42 Asking for an unknown user is an error.
43 Revoking an unknown key is an error.
44 A bad address is refused and named.
Authentication over HTTP
45 Submitting, listing and looking without credentials: 401.
46 An unknown key: 401 and its text.
47 A revoked key: 401.
48 The key of an inactive user: 401 and its text.
49 Lists of two users have nothing in common.
50 The owner sees a job.
51 Another user is denied.
52 An unknown job is not found.
53 An asynchronous submission is a queued job of its owner.
54 A key without its scheme, and an empty header: 401.
55 A bearer credential that is no key: 401.
Keys
56 A key has the documented form and length.
57 A hundred keys are a hundred different ones.
58 The stored hash is the SHA-256 of the key, and always the same.
59 Keys use the whole alphabet.
The project's zip and the client
60 The zip is valid.
61 Ordinary files are in it.
62 Hidden folders are not.
63 `__pycache__` is not.
64 Dotfiles are not.
65 Deep folders keep their whole paths.
66 There are no entries for folders.
67 An empty project gives an empty zip.
68 An asynchronous submission goes to its own endpoint.
69 A network or HTTP error is told; nothing crashes.
70 Streams are read line by line: id, log and end; blank lines and comments are passed over.
71 `from_beginning` is sent only when it is wanted.
72 A network error while submitting or waiting is an error in the log and a failure.
The controller
73 It starts and stops in an orderly way.
74 With nothing to do it does nothing.
75 A queued job without files is not started.
76 A queued job is started once.
77 A running job whose container ended is finished.
78 A running job whose container is gone is failed.
79 What becomes of a finished job's container.
80 Containers that belong to no job are removed.
81 The upload is gone once the job runs.
82 The upload is gone when the job could not be started.
83 What finished jobs left is swept.
84 What running jobs use is not.
85 Whose container it is: recognised or left alone.
86 An unknown container is none, not an error.
The store
87 A job comes back as stored; a missing one is none; status and times are kept.
88 Events are in order and can be read from an index.
89 Listing leaves events out.
90 Everything survives opening again.
91 A second address and a second hash are refused.
92 The last use of a key is kept.
93 Lists are per user, and empty for who has nothing.
94 Dictionaries leave out what is absent, summaries what is internal.
Endings
95 Missing requirements and cancelled jobs have a clear end.
96 After jobs there are no new temporary files, images or containers.
Usage, with the same calls
97 Models, and a job's life through the repository's interface.
98 Users, keys, jobs and events in the repository.
99 The client library: packing, submitting, waiting, listing.
"""

#: Where ours differs on purpose, and why.
DIFFERENCES: dict[Number, str] = {
    3: "pytest's own code 2",
    7: "exit code 4, as pytest ends for a file that does not exist",
    8: "exit code 2, as a session of pytest; the job is really cancelled on the runner: nobody waits for its result",
    9: "exit code 2, as a session of pytest",
    11: "newest submission first, whether started or not: a list that can be paged",
    13: "exit code 77",
    14: "exit code 77",
    16: "exit code 77",
    26: "exit code 77",
    35: "49 characters: an id to name the key by, a longer secret, a checksum",
    45: "401 alone, never 403: the request lacks credentials, nobody is denied anything",
    56: "49 characters: `ci_`, an id, a secret and a checksum, by which typing errors are noticed",
    64: "dotfiles travel: tests need `.coveragerc` or `.env.test`; what looks like a secret is refused by name",
    75: "it fails and says why, instead of waiting for ever",
    79: "it is removed: the log is in the store and stays",
    80: "by label, not by the shape of a name: somebody else's container may be named alike",
    81: "uploads are unpacked while they are received; no job ever has one",
    85: "by label (install, job, attempt), never by name",
    95: "missing requirements are no error: pytest is installed; cancelling stops the container",
    97: "our repository is synchronous (a call where its users await one); `datetime.utcnow()` is taken as UTC with a "
    "`NaiveTimeWarning`",
    98: "as for 97",
    **conformance_pipelines.DIFFERENCES,
}


def cases() -> dict[Number, str]:
    """Number → what the case says."""
    return {number: text for number, text in map(_split, _lines()) if number is not None}


def sections() -> Iterator[tuple[str, list[Number]]]:
    """Headings with the numbers below them."""
    heading, numbers = "", list[Number]()
    for number, text in map(_split, _lines()):
        if number is not None:
            numbers.append(number)
            continue
        if numbers:
            yield heading, numbers
        heading, numbers = text, []
    yield heading, numbers


def _lines() -> list[str]:
    return [*_CASES.strip().splitlines(), *conformance_pipelines.CASES.strip().splitlines()]


def _split(line: str) -> tuple[Number | None, str]:
    """The number and the text of a case, or None and a heading."""
    first, _, rest = line.partition(" ")
    if first.isdecimal():
        return int(first), rest
    return (first, rest) if first[0] == "B" and first[1:].isdecimal() else (None, line)


def shown_by(mark: str = "case") -> dict[Number, list[tuple[str, str]]]:
    """Number → (file, name) of the tests that carry its mark."""
    found: dict[Number, list[tuple[str, str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "fixtures" in path.relative_to(ROOT).parts:
            continue  # projects that jobs run
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                for number in _numbers(node, mark):
                    found.setdefault(number, []).append((path.relative_to(ROOT).as_posix(), node.name))
    return found


def _numbers(node: ast.FunctionDef | ast.ClassDef, mark: str) -> list[Number]:
    return [
        argument.value
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func) == f"pytest.mark.{mark}"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, (int, str))
    ]


def page() -> str:
    """docs/reference/conformance.md."""
    texts, shown = cases(), shown_by()
    lines = [
        "# Conformance",
        "",
        "What the reference systems did and we do, too, by the numbers that tests carry (`pytest.mark.case`): plain",
        "numbers are of the system that runs a project's tests, those with a B of the one that runs pipelines.",
        "Where ours differs on purpose, the tests hold ours. Made by `PYTHONPATH=tests python -m compat.conformance`.",
    ]
    for heading, numbers in sections():
        lines += ["", f"## {heading}", "", "| | the case | tests | differs on purpose |", "|---|---|---|---|"]
        for number in numbers:
            tests = _links(shown.get(number, []))
            lines.append(f"| {number} | {texts[number]} | {tests} | {DIFFERENCES.get(number, '')} |")
    return "\n".join([*lines, *_defects()]) + "\n"


def _links(tests: list[tuple[str, str]]) -> str:
    return "<br>".join(f"`{name}` ([{path.rpartition('/')[2]}]({REPOSITORY}/{path}))" for path, name in tests)


def _defects() -> Iterator[str]:
    """The sections about what the reference systems do wrong."""
    shown = shown_by("defect")
    for system, defects in (
        ("that runs a project's tests", DEFECTS),
        ("with pipelines", conformance_pipelines.DEFECTS),
    ):
        yield from ("", f"## Defects of the system {system}", "")
        yield "What it does wrong, and the tests (`pytest.mark.defect`) that show that ours does not."
        yield from ("", "| | the defect | tests |", "|---|---|---|")
        for number, text in defects.items():
            yield f"| {number} | {text} | {_links(shown.get(number, []))} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
