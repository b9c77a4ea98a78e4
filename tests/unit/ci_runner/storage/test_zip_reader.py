"""Archives: what is refused, in which words, and that what is taken comes back byte by byte."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import many_empty_files

from ci_runner.errors import InvalidSubmission
from ci_runner.model.path_checks import check_paths, path_problem
from ci_runner.storage.zip_reader import Archive, ArchiveLimits

LIMITS = ArchiveLimits(max_files=1000, max_unpacked=10 << 20, ratio_from=1 << 20)


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", compression) as archive:
        warnings.simplefilter("ignore")  # duplicates are meant
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def contents(raw: bytes, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
    archive = Archive(io.BytesIO(raw), limits)
    return {item.path: b"".join(archive.read(item)) for item in archive.entries}


def patched(raw: bytes, find: bytes, replace: bytes, count: int = -1) -> bytes:
    assert find in raw
    return raw.replace(find, replace, count)


def with_field(raw: bytes, offset: int, form: str, value: int) -> bytes:
    """`raw` with one number of its first directory line changed."""
    at = raw.index(b"PK\x01\x02") + offset
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


def overlapping(count: int, size: int = 1 << 20) -> bytes:
    """Every directory line points at one member: a few kilobytes that unpack to gigabytes."""
    kernel = zip_of(("0" * 8, b"\0" * size))
    start = kernel.index(b"PK\x01\x02")
    line = kernel[start : kernel.index(b"PK\x05\x06")]
    lines = b"".join(line.replace(b"0" * 8, b"%08d" % index) for index in range(count))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(lines), start, 0)
    return kernel[:start] + lines + end


ONE = zip_of(("a.py", b"x = 1\n"))
BIG = b"\0" * (2 << 20)

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "text": (lambda: b"hello", "not a zip archive"),
    "a long text": (lambda: b"hello, world! " * 10, "not a zip archive"),
    "nothing at all": (lambda: b"", "not a zip archive"),
    "a zip that is cut off": (lambda: ONE[:-10], "not a zip archive"),
    "data after the end": (lambda: ONE + b"more", "not a valid zip archive (there is data after its end)"),
    "data before the start": (
        lambda: b"#!/bin/sh\n" + ONE,
        "not a valid zip archive (its directory has the wrong size or place)",
    ),
    "a parent folder": (lambda: zip_of(("../evil", b"")), "entry '../evil' is outside the project ('..')"),
    "a parent folder inside": (
        lambda: zip_of(("a/../../evil", b"")),
        "entry 'a/../../evil' is outside the project ('..')",
    ),
    "an absolute path": (lambda: zip_of(("/etc/passwd", b"")), "entry '/etc/passwd' has an absolute path"),
    "a drive": (lambda: zip_of(("C:/evil", b"")), "entry 'C:/evil' has a drive letter"),
    "a backslash": (lambda: zip_of(("..\\evil", b"")), "entry '..\\\\evil' has a backslash in its name"),
    "a NUL": (
        lambda: patched(zip_of(("aXb.py", b"")), b"aXb.py", b"a\0b.py"),
        "entry 'a\\x00b.py' has a NUL in its name",
    ),
    "a dot": (lambda: zip_of(("./a", b"")), "entry './a' has an empty or '.' part in its name"),
    "an empty part": (lambda: zip_of(("a//b", b"")), "entry 'a//b' has an empty or '.' part in its name"),
    "only a slash": (lambda: zip_of(("/", b"")), "entry '/' has an empty or '.' part in its name"),
    "a name that is not UTF-8": (
        lambda: patched(zip_of(("aXb.py", b"")), b"aXb.py", b"a\xffb.py"),
        "entry 'a\xffb.py' has a name that is not UTF-8",
    ),
    "the same name twice": (lambda: zip_of(("a", b"1"), ("a", b"2")), "entry 'a' occurs twice"),
    "a file below a file": (
        lambda: zip_of(("a", b""), ("a-b", b""), ("a/b", b"")),
        "entry 'a/b' is below 'a', which is a file",
    ),
    "a folder that is a file": (
        lambda: zip_of(("a/", b""), ("a", b"")),
        "entry 'a' occurs twice",
    ),
    "a long path": (
        lambda: zip_of(("d/" * 40 + "a" * 1000, b"")),
        "entry '*' has a name longer than 1024 bytes",
    ),
    "a long part": (
        lambda: zip_of(("a" * 256, b"")),
        "entry '*' has a part longer than 255 bytes in its name",
    ),
    "a deep path": (lambda: zip_of(("d/" * 70 + "a", b"")), "entry '*' is more than 64 folders deep"),
    "too many entries": (
        lambda: zip_of(*((str(n), b"") for n in range(1001))),
        "has 1001 entries; this runner accepts at most 1000",
    ),
    "too many folders": (
        lambda: zip_of(*((f"{n}/b/c/d", b"") for n in range(400))),
        "has 1200 folders; this runner accepts at most 1000",
    ),
    "a symbolic link": (
        lambda: zip_of((entry("link", stat.S_IFLNK | 0o777), b"/etc")),
        "entry 'link' is a symbolic link",
    ),
    "a device": (
        lambda: zip_of((entry("dev", stat.S_IFCHR | 0o666), b"")),
        "entry 'dev' is neither a regular file nor a folder",
    ),
    "a pipe": (
        lambda: zip_of((entry("pipe", stat.S_IFIFO | 0o666), b"")),
        "entry 'pipe' is neither a regular file nor a folder",
    ),
    "a folder with contents": (lambda: zip_of(("d/", b"x")), "entry 'd/' is a folder with contents"),
    "an encrypted entry": (lambda: with_field(ONE, 8, "<H", 1), "entry 'a.py' is encrypted"),
    "a strange compression": (
        lambda: zip_of(("a", b"x"), compression=zipfile.ZIP_LZMA),
        "entry 'a' uses compression method 14; only stored and deflated are accepted",
    ),
    "bzip2": (
        lambda: zip_of(("a", b"x"), compression=zipfile.ZIP_BZIP2),
        "entry 'a' uses compression method 12; only stored and deflated are accepted",
    ),
    "members that overlap": (
        lambda: overlapping(900),
        "unpacks to more than 10485760 bytes, the most that this runner accepts",
    ),
    "two members that overlap": (lambda: overlapping(2, 1000), "entry '00000000' overlaps another entry"),
    "a bomb by its total": (
        lambda: zip_of(("a", b"\0" * (11 << 20))),
        "unpacks to more than 10485760 bytes, the most that this runner accepts",
    ),
    "a bomb by its ratio": (
        lambda: zip_of(("a", b"\0" * (9 << 20))),
        "unpacks to more than 200 times its size",
    ),
    "a member that declares less than it holds": (
        lambda: patched(zip_of(("a", BIG)), struct.pack("<L", len(BIG)), struct.pack("<L", 100)),
        "entry 'a' has more than the 100 bytes that it declares",
    ),
    "a member that declares more than it holds": (
        lambda: patched(zip_of(("a", b"x" * 77)), struct.pack("<L", 77), struct.pack("<L", 78)),
        "entry 'a' has 77 bytes but declares 78",
    ),
    "a directory that disagrees with the header": (
        lambda: with_field(ONE, 24, "<L", 7),
        "entry 'a.py' differs between its header and the directory",
    ),
    "a name that disagrees with the header": (
        lambda: patched(ONE, b"a.py", b"b.py", 1),
        "entry 'a.py' differs between its header and the directory",
    ),
    "a wrong checksum": (
        lambda: patched(zip_of(("a", b"12345"), compression=0), b"12345", b"12346"),
        "entry 'a' is damaged (its checksum is wrong)",
    ),
    "a line that is longer than its directory": (
        lambda: with_field(ONE, 32, "<H", 1),
        "not a valid zip archive (its directory is cut off)",
    ),
    "a member outside the file": (
        lambda: with_field(ONE, 42, "<L", 1 << 30),
        "entry 'a.py' has no header at the position in the directory",
    ),
    "a count that is too small": (
        lambda: patched(zip_of(("a", b""), ("b", b"")), b"\0\0\2\0\2\0", b"\0\0\1\0\1\0"),
        "not a valid zip archive (its directory holds more than it declares)",
    ),
    "part of a split archive": (
        lambda: patched(ONE, b"PK\5\6\0\0\0\0", b"PK\5\6\1\0\1\0"),
        "is one part of a split zip archive; send one whole archive",
    ),
    "damaged contents": (
        lambda: patched(zip_of(("a", b"ab" * 500)), zip_of(("a", b"ab" * 500))[31:36], b"\xff" * 5),
        "entry 'a' is damaged (*)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_reason(name: str) -> None:
    make, reason = REFUSED[name]
    raw = make()
    with pytest.raises(InvalidSubmission) as caught:
        contents(raw)
    assert fnmatchcase(str(caught.value), f"file: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.case(67)
def test_an_empty_archive_is_an_empty_project() -> None:
    assert contents(zip_of()) == {}


def test_folders_are_skipped_and_modes_kept() -> None:
    archive = Archive(
        io.BytesIO(
            zip_of(
                ("d/", b""),
                (entry("d/run", stat.S_IFREG | 0o755), b"#!"),
                (entry("d/data", stat.S_IFREG | 0o600), b""),
                (entry("d/odd", stat.S_IFREG | 0o601), b""),
            )
        ),
        LIMITS,
    )
    assert [(item.path, item.executable) for item in archive.entries] == [
        ("d/run", True),
        ("d/data", False),
        ("d/odd", False),
    ]


def test_members_written_to_a_pipe_are_read() -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, piece: Any, /) -> int:
            self.data += piece
            return len(piece)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # sizes follow the contents
        archive.writestr("a", b"abc" * 1000)
        archive.writestr("b", b"")
    assert contents(bytes(pipe.data)) == {"a": b"abc" * 1000, "b": b""}


def test_zip64_members_are_read() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"abc")
    assert contents(target.getvalue()) == {"a": b"abc"}


def test_two_hundred_thousand_entries_are_refused_without_being_listed() -> None:
    raw = many_empty_files(200_000)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:  # nothing else is wrong with it
        assert (len(archive.namelist()), archive.read("199999")) == (200_000, b"")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidSubmission, match="has 200000 entries; this runner accepts at most 1000"):
            Archive(io.BytesIO(raw), LIMITS)
        assert tracemalloc.get_traced_memory()[1] < (8 << 20) + len(raw)
    finally:
        tracemalloc.stop()


def test_reading_a_bomb_never_holds_more_than_a_piece() -> None:
    raw = zip_of(("a", b"\0" * (60 << 20)))
    archive = Archive(io.BytesIO(raw), ArchiveLimits())
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in archive.read(archive.entries[0]))
        assert total == 60 << 20
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_contents_come_in_pieces_of_64_kib(compression: int) -> None:
    raw = zip_of(("a", b"\0" * 200_000), compression=compression)
    archive = Archive(io.BytesIO(raw), LIMITS)
    sizes = [len(piece) for piece in archive.read(archive.entries[0])]
    assert (sum(sizes), max(sizes)) == (200_000, 1 << 16)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_is_cut_off_later_is_refused_when_it_is_read(compression: int) -> None:
    file = io.BytesIO(zip_of(("a", b"spam and eggs"), compression=compression))
    archive = Archive(file, LIMITS)
    file.truncate(archive.entries[0].offset + 5)
    with pytest.raises(InvalidSubmission, match=r"\Afile: entry 'a' is cut off\Z"):
        list(archive.read(archive.entries[0]))


PART = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/\\"), min_size=1, max_size=20
).filter(lambda text: text not in (".", ".."))
TREES = st.dictionaries(
    st.lists(PART, min_size=1, max_size=4).map("/".join), st.binary(max_size=3000), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(TREES, st.booleans())
def test_valid_trees_come_back_as_they_were(tree: dict[str, bytes], deflate: bool) -> None:
    raw = zip_of(*tree.items(), compression=zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)
    try:
        check_paths("file", tree, max_files=1000)
    except InvalidSubmission:
        with pytest.raises(InvalidSubmission):
            contents(raw)
        return
    assert contents(raw) == tree


@settings(max_examples=300, deadline=None)
@given(TREES, st.data())
def test_a_damaged_archive_is_refused_or_read_as_zipfile_reads_it(
    tree: dict[str, bytes], data: st.DataObject
) -> None:
    raw = bytearray(zip_of(*tree.items()))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        ours = contents(bytes(raw))
    except InvalidSubmission:
        return
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as theirs:
        seen = {info.filename: theirs.read(info) for info in theirs.infolist() if not info.is_dir()}
    # A name without the UTF-8 flag is read as code page 437 by zipfile; contents must agree in any case.
    assert list(ours.values()) == list(seen.values())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_an_accepted_path_stays_inside_and_is_itself(text: str) -> None:
    if path_problem(text) is None:
        parts = text.split("/")
        assert not text.startswith("/")
        assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
        assert "\0" not in text


@pytest.mark.parametrize(
    "path", ["a.", "CON", "aux.txt", "a b", " ", "…", "a\u202fb", "\u200d", "ab:c", "~", "-rf"]
)
def test_unusual_but_harmless_names_are_taken(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(
    "char",
    [
        "\n",
        "\r",
        "\t",
        "\x1b",
        "\x7f",
        "\x85",
        "\x9b",
        *"\u202a\u202b\u202c\u202d\u202e",
        *"\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029",
    ],
)
@pytest.mark.parametrize("place", ["{}x", "x/{}", "a{}b/c"])
def test_names_with_control_characters_are_refused_in_one_line(char: str, place: str) -> None:
    path = place.format(char)
    with pytest.raises(InvalidSubmission, match="has a c") as caught:
        contents(zip_of((path, b"")))
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidSubmission, match=r"manifest: entry .* has a c") as caught:
        check_paths("manifest", [path], max_files=1)
    assert str(caught.value).isprintable()


def test_a_manifest_path_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidSubmission, match="manifest: entry '\\\\ud800' is not valid Unicode"):
        check_paths("manifest", ["\ud800"], max_files=1)
