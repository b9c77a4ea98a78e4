"""Locks as containers make them: what is a requirement, what is a folder of the project, and what is neither."""

from __future__ import annotations

import pytest

from ci_runner.dependencies import locks
from ci_runner.dependencies.project import Tree
from ci_runner.errors import EnvironmentFailed

HASH = "--hash=sha256:" + 64 * "a"
TREE = Tree(
    {
        "libs/inner/pyproject.toml": "",
        "my libs/x/setup.py": "",
        "libs.txt": "",
        "vendor/a.whl": "",
    },
    lambda path: b"",
)


def parse(text: str) -> locks.Lock:
    return locks.parse(text, "/home/dev/project", TREE)


@pytest.mark.parametrize(
    ("line", "pinned"),
    [
        (f"six==1.16.0 {HASH}", True),
        (f"six==1.16.0 {HASH} --hash=sha512:{128 * '0'}", True),
        (f"six==1.16.0 \\\n    {HASH} \\\n    {HASH}", True),
        (f"coverage[toml]==7.0 {HASH}", True),
        (f"a.b-c_d==1!2.0rc1.post3+local.1 {HASH}", True),
        (f"colorama==0.4.6 ; sys_platform == 'win32' {HASH}", True),
        (f"x==1 ; (python_full_version < '3.11' and extra == \"a\") or os_name not in 'nt' {HASH}", True),
        ("six==1.16.0", False),
        ("thing @ https://example.org/thing-1.0-py3-none-any.whl", False),
        (f"thing @ https://example.org/thing.zip#sha256=0 ; python_version >= '3' {HASH}", False),
        ("thing @ git+https://user:word@example.org/x/y.git@0123456789", False),
        ("thing[extra] @ git+ssh://git@example.org/x.git", False),
        ("thing @ file:///home/dev/project/vendor/a.whl", False),
        ("./vendor/a.whl", False),
        ("/opt/wheels/b.whl", False),
    ],
)
def test_requirements(line: str, pinned: bool) -> None:
    lock = parse(line + "\n")
    assert lock.text == " ".join(line.replace("\\\n", " ").split()) + "\n"
    assert (lock.locals, lock.pinned) == ((), pinned)
    assert parse(lock.text) == lock


@pytest.mark.parametrize(
    "line",
    [
        "-e ./libs/inner",
        "-e file:///home/dev/project/libs/inner",
        "-e libs/../libs/inner",
        "./libs/inner",
        "inner @ file:///home/dev/project/libs/inner",
        "inner[extra] @ file:///home/dev/project/libs/inner ; python_version >= '3.8'",
        "/home/dev/project/libs/inner/",
    ],
)
def test_folders_of_the_project(line: str) -> None:
    if line == "-e libs/../libs/inner":  # no form of uv's
        with pytest.raises(EnvironmentFailed):
            parse(line)
        return
    lock = parse(f"{line}\nsix==1 {HASH}\n")
    assert (lock.locals, lock.text, lock.pinned) == (("libs/inner",), f"six==1 {HASH}\n", False)


@pytest.mark.parametrize(
    "line", ["-e .", "./", "mine @ file:///home/dev/project", "-e file:///home/dev/project"]
)
def test_the_project_itself_is_no_part_of_its_lock(line: str) -> None:
    assert parse(f"{line}\n").locals == ()
    assert parse(f"{line}\n").text == ""


def test_a_quoted_folder_is_found() -> None:
    assert parse("x @ file:///home/dev/project/my%20libs/x\n").locals == ("my libs/x",)


@pytest.mark.parametrize(
    "line",
    [
        "--extra-index-url https://evil.example/simple",
        "--index-url=https://evil.example/simple",
        "-i https://evil.example/simple",
        "--find-links /ci/spool",
        "-f .",
        "-r other.txt",
        "-c other.txt",
        "--no-binary :all:",
        "--pre",
        f"six==1 {HASH} --extra-index-url https://evil.example",
        f"six==1 --extra-index-url https://evil.example {HASH}",
        f"six==1 ; python_version > '3' --extra-index-url https://evil.example {HASH}",
        f"six==1 ; python_version > '3' -r x {HASH}",
        f"six==1 ; {HASH}",
        "six==1 --hash=md5:0",
        f"six==1 --hash=sha256:{63 * 'a'}",
        f"six==1 --hash=sha256:{64 * 'A'}",
        "six>=1",
        "six",
        "six==1.*",
        "six===1",
        "six==1,<2",
        "six==$HOME",
        "six==1 ; os_name == '${UV_DEFAULT_INDEX}'",
        "thing @ ftp://example.org/x",
        "thing @ https://example.org/${TOKEN}",
        "thing @ https://example.org/a b",
        "thing @ data:text/plain,x",
        "thing @ ./x",
        "thing @ C:\\x",
        "-e /opt/elsewhere",
        "-e ../elsewhere",
        "-e https://example.org/x",
        "-e six==1",
        "six==1\t--pre",
        "six==1\r--pre",
        "six==1\x0b--pre",
        "six==1\u2028--pre",
        "six==1\u00a0; x",
        "s\u0456x==1",
        "\ufeffsix==1",
        "six==1\0",
        "~/x",
        "a" * 3000 + "==1",
        f"six==1 ; {'(' * 3000}",
        "six==1" + f" {HASH}" * 3000,
    ],
)
def test_anything_else_is_refused_in_one_line(line: str) -> None:
    with pytest.raises(EnvironmentFailed, match="a line that is not a plain requirement") as caught:
        parse(f"pytest==8.0 {HASH}\n{line}\n")
    words = str(caught.value)
    assert len(words) < 600
    assert words.isascii()
    assert words.isprintable()


@pytest.mark.parametrize("text", [None, 3, ["six==1"], {"a": 1}, b"six==1"])
def test_what_is_no_text_is_no_lock(text: object) -> None:
    with pytest.raises(EnvironmentFailed, match="created no lock"):
        locks.parse(text, "/project", TREE)


@pytest.mark.parametrize("text", ["x" * (5 << 20), "a==1\n" * 6000])
def test_a_lock_without_end_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFailed, match=r"the lock (is larger|has more) than"):
        parse(text)


@pytest.mark.parametrize(
    "line",
    [
        "a" + "-" * 1990,
        "a[" + "b," * 900,
        "six==1 ; " + "a " * 900 + "%",
        "six==1 ; " + "'" * 1901,
        "six==1 ; " + "(" * 1900 + "%",
        "x @ https://" + "a" * 1900 + "\x01",
        "./" + "a/" * 900 + ";",
    ],
)
def test_no_line_takes_for_ever(line: str) -> None:
    with pytest.raises(EnvironmentFailed):
        parse(f"{line}\n")


def test_many_lines_over_many_files_do_not_take_for_ever() -> None:
    tree = Tree({f"a/{number}/file.py": "" for number in range(50_000)}, lambda path: b"")
    lines = "".join(f"./b/{number}\n" for number in range(5000))
    assert locks.parse(lines, "/project", tree).locals == ()


def test_comments_and_blank_lines_do_not_count() -> None:
    assert parse(f"# made by uv\n\n   \nsix==1 {HASH}\n").text == f"six==1 {HASH}\n"


@pytest.mark.parametrize(
    "raw", [{}, {"text": ""}, {"locals": []}, {"text": "", "locals": [], "hashed": True}]
)
def test_what_was_stored_by_another_version_is_no_lock(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no stored lock"):
        locks.Lock.from_dict(raw)


@pytest.mark.parametrize(
    ("line", "folders"),
    [
        ("-e ../lib", ("../lib",)),
        ("lib @ file:///home/dev/lib", ("../lib",)),
        ("../../dev/lib", ("../lib",)),
        ("-e ..", None),
        ("-e ../elsewhere", None),
        ("-e file:///home/dev", None),
    ],
)
def test_folders_beside_the_project(line: str, folders: tuple[str, ...] | None) -> None:
    """Only those that were sent, and a folder that has nothing but others in it is none of them."""
    tree = Tree({"proj/pyproject.toml": "", "lib/pyproject.toml": ""}, lambda path: b"").seen_from("proj")
    if folders is not None:
        assert locks.parse(line, "/home/dev/proj", tree).locals == folders
        return
    with pytest.raises(EnvironmentFailed, match="not a plain requirement"):
        locks.parse(line, "/home/dev/proj", tree)
