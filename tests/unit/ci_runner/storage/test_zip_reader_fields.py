"""Archives field by field: each number of a header at the border of what is taken, and one beyond it."""

from __future__ import annotations

import io
import stat
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ci_runner.errors import InvalidSubmission
from ci_runner.storage.zip_reader import Archive, ArchiveLimits

TEXT = b"spam and eggs, " * 40
WIDE = 0xFFFFFFFF
REGULAR, FOLDER = (stat.S_IFREG | 0o644) << 16, (stat.S_IFDIR | 0o755) << 16


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@dataclass(frozen=True)
class Member:
    """One file; `local` and `central` are fields of its two headers in place of the true ones."""

    name: str = "a"
    packed: bytes = b"12345"
    size: int = 5
    crc: int = zlib.crc32(b"12345")
    method: int = 0
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    extra: bytes = b""
    comment: bytes = b""

    def fields(self, **changes: Any) -> dict[str, Any]:
        true = {
            "version": 20,
            "flags": 0x800,
            "method": self.method,
            "crc": self.crc,
            "packed": len(self.packed),
            "size": self.size,
            "disk": 0,
            "external": REGULAR,
            "name": self.name.encode(),
        }
        return {**true, **changes}


def deflated_member(data: bytes = TEXT, tail: bytes = b"", **more: Any) -> Member:
    return Member(packed=deflated(data) + tail, size=len(data), crc=zlib.crc32(data), method=8, **more)


def archive_of(*members: Member, before_end: bytes = b"", comment: bytes = b"", **end: Any) -> bytes:
    """The bytes; `end` are fields of the last record in place of the true ones."""
    body, directory = b"", b""
    for member in members:
        here = member.fields(**{"header": len(body), **member.central})
        there = member.fields(**member.local)
        body += (
            struct.pack(
                "<4s5H3L2H",
                b"PK\3\4",
                there["version"],
                there["flags"],
                there["method"],
                0,
                0,
                there["crc"],
                there["packed"],
                there["size"],
                len(there["name"]),
                0,
            )
            + there["name"]
            + member.packed
        )
        directory += (
            struct.pack(
                "<4s6H3L5H2L",
                here.get("signature", b"PK\1\2"),
                0,
                here["version"],
                here["flags"],
                here["method"],
                0,
                0,
                here["crc"],
                here["packed"],
                here["size"],
                len(here["name"]),
                len(member.extra),
                len(member.comment),
                here["disk"],
                0,
                here["external"],
                here["header"],
            )
            + here["name"]
            + member.extra
            + member.comment
        )
    last = {
        "disk": 0,
        "first": 0,
        "here": len(members),
        "count": len(members),
        "size": len(directory),
        "start": len(body),
    }
    last |= {"comment": len(comment), **end}
    record = struct.pack(
        "<4s4H2LH",
        b"PK\5\6",
        last["disk"],
        last["first"],
        last["here"],
        last["count"],
        last["size"],
        last["start"],
        last["comment"],
    )
    return body + directory + before_end + record + comment


def with_zip64(*members: Member, locator: dict[str, int] | None = None, **record: Any) -> bytes:
    """An archive whose last record is preceded by a ZIP64 one, which has the numbers."""
    plain = archive_of(*members)
    here, count, size, start = struct.unpack_from("<2H2L", plain, len(plain) - 14)
    found = {
        "signature": b"PK\6\6",
        "length": 44,
        "disk": 0,
        "first": 0,
        "here": here,
        "count": count,
        "size": size,
        "start": start,
        **record,
    }
    where = {"end": start + size, "disks": 1, **(locator or {})}
    wide = struct.pack(
        "<4sQ2H2L4Q",
        found["signature"],
        found["length"],
        45,
        45,
        found["disk"],
        found["first"],
        found["here"],
        found["count"],
        found["size"],
        found["start"],
    ) + struct.pack("<4sLQL", b"PK\6\7", 0, where["end"], where["disks"])
    return archive_of(*members, before_end=wide, here=0xFFFF, count=0xFFFF, size=WIDE, start=WIDE)


def wide(*values: int, identifier: int = 1) -> bytes:
    data = b"".join(value.to_bytes(8, "little") for value in values)
    return struct.pack("<HH", identifier, len(data)) + data


def contents(raw: bytes, **limits: int) -> dict[str, bytes]:
    archive = Archive(io.BytesIO(raw), ArchiveLimits(**limits))
    assert archive.unpacked_size == sum(entry.size for entry in archive.entries)
    return {entry.path: b"".join(archive.read(entry)) for entry in archive.entries}


def ending_with_its_piece() -> Member:
    """A member whose compressed contents end with the first piece that is read; more follows."""
    data = bytes(65_531)
    block = b"\1" + struct.pack("<HH", len(data), 0xFFFF - len(data)) + data
    assert len(block) == 1 << 16
    return Member(packed=block + b"more", size=len(data), crc=zlib.crc32(data), method=8)


FIVE = {"a": b"12345"}
#: The record at the end of an archive of nothing.
END = archive_of()
#: What tells where the ZIP64 record is, which is before it.
LOCATOR = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
TAKEN: dict[str, tuple[bytes, dict[str, bytes], dict[str, int]]] = {
    "a stored file": (archive_of(Member()), FIVE, {}),
    "a deflated file": (archive_of(deflated_member()), {"a": TEXT}, {}),
    "contents that end after the last byte was read": (
        archive_of(deflated_member(bytes(65_537))),
        {"a": bytes(65_537)},
        {},
    ),
    "an empty deflated file": (archive_of(deflated_member(b"")), {"a": b""}, {}),
    "the newest version that is needed": (archive_of(Member(central={"version": 45})), FIVE, {}),
    "no kind of file": (archive_of(Member(central={"external": 0})), FIVE, {}),
    "a folder": (archive_of(Member("d/", b"", 0, 0, central={"external": FOLDER}), Member()), FIVE, {}),
    "a comment": (archive_of(Member(), comment=b"made by hand"), FIVE, {}),
    "the longest comment": (archive_of(Member(), comment=b"x" * 0xFFFF), FIVE, {}),
    "a member's comment": (archive_of(Member(comment=b"note"), Member("b")), {**FIVE, "b": b"12345"}, {}),
    "flags that change nothing": (
        archive_of(deflated_member(local={"flags": 0x806}, central={"flags": 0x806})),
        {"a": TEXT},
        {},
    ),
    "sizes that follow the contents": (
        archive_of(
            Member(local={"flags": 0x808, "crc": 0, "packed": 0, "size": 0}, central={"flags": 0x808})
        ),
        FIVE,
        {},
    ),
    "sizes of the header that are elsewhere": (
        archive_of(Member(local={"packed": WIDE, "size": WIDE})),
        FIVE,
        {},
    ),
    "wide numbers": (
        archive_of(Member(central={"size": WIDE, "packed": WIDE, "header": WIDE}, extra=wide(5, 5, 0))),
        FIVE,
        {},
    ),
    "names that differ by their last letter": (
        archive_of(Member("a"), Member("aX")),
        {**FIVE, "aX": b"12345"},
        {},
    ),
    "one wide number": (archive_of(Member(central={"packed": WIDE}, extra=wide(5))), FIVE, {}),
    "wide numbers behind another field": (
        archive_of(Member(central={"size": WIDE}, extra=wide(7, identifier=9) + wide(5))),
        FIVE,
        {},
    ),
    "a field that ends early": (archive_of(Member(extra=b"\1\0\0")), FIVE, {}),
    "a wide directory": (with_zip64(Member(), Member("b")), {**FIVE, "b": b"12345"}, {}),
    "as many entries as may be": (
        archive_of(Member(), Member("b")),
        {**FIVE, "b": b"12345"},
        {"max_files": 2},
    ),
    "as many bytes as may be": (
        archive_of(Member(), Member("b")),
        {**FIVE, "b": b"12345"},
        {"max_unpacked": 10, "ratio_from": 0},
    ),
    "contents that look like the end": (
        archive_of(Member(packed=END, size=len(END), crc=zlib.crc32(END))),
        {"a": END},
        {},
    ),
    "three files": (
        archive_of(Member(), Member("b"), Member("c")),
        {**FIVE, "b": b"12345", "c": b"12345"},
        {},
    ),
    "just the ratio of two": (
        archive_of(Member(), Member("b")),
        {**FIVE, "b": b"12345"},
        {"ratio_from": 0, "max_ratio": 1},
    ),
    "less than the ratio": (archive_of(deflated_member()), {"a": TEXT}, {"ratio_from": 0, "max_ratio": 200}),
    "just the ratio": (archive_of(Member()), FIVE, {"ratio_from": 0, "max_ratio": 1}),
    "a ratio that is too high for more": (archive_of(Member()), FIVE, {"ratio_from": 5, "max_ratio": 0}),
}


@pytest.mark.parametrize(("raw", "files", "limits"), TAKEN.values(), ids=TAKEN)
def test_it_is_taken(raw: bytes, files: dict[str, bytes], limits: dict[str, int]) -> None:
    assert contents(raw, **limits) == files


def test_members_in_any_order_keep_the_order_of_the_directory() -> None:
    first, second = Member("a"), Member("b", b"xy", 2, zlib.crc32(b"xy"))
    raw = archive_of(first, second)
    start = raw.index(b"PK\1\2")
    line = 46 + 1
    swapped = (
        raw[:start]
        + raw[start + line : start + 2 * line]
        + raw[start : start + line]
        + raw[start + 2 * line :]
    )
    assert list(contents(swapped).items()) == [("b", b"xy"), ("a", b"12345")]


REFUSED: dict[str, tuple[bytes, str, dict[str, int]]] = {
    "data after the end of a member": (
        archive_of(deflated_member(tail=b"more")),
        "entry 'a' has data after its end",
        {},
    ),
    "one byte after the end of a member": (
        archive_of(deflated_member(tail=b"\0")),
        "entry 'a' has data after its end",
        {},
    ),
    "a second piece after the end of a member": (
        archive_of(deflated_member(b"", tail=b"\0" * 70_000)),
        "entry 'a' has data after its end",
        {},
    ),
    "a piece of its own after the end of a member": (
        archive_of(ending_with_its_piece()),
        "entry 'a' has data after its end",
        {},
    ),
    "much after the end of a long member": (
        archive_of(deflated_member(bytes(range(256)) * 2000, tail=b"x" * 200_000)),
        "entry 'a' has data after its end",
        {},
    ),
    "a member without its end": (
        archive_of(replace(deflated_member(), packed=deflated(TEXT)[:-3])),
        "entry 'a' is cut off",
        {},
    ),
    "a newer version": (
        archive_of(Member(central={"version": 46})),
        "entry 'a' needs version 4.6 of the zip format",
        {},
    ),
    "a much newer version": (
        archive_of(Member(central={"version": 63})),
        "entry 'a' needs version 6.3 of the zip format",
        {},
    ),
    "an encrypted member": (archive_of(Member(central={"flags": 0x801})), "entry 'a' is encrypted", {}),
    "patched data": (archive_of(Member(central={"flags": 0x820})), "entry 'a' is encrypted", {}),
    "strong encryption": (archive_of(Member(central={"flags": 0x840})), "entry 'a' is encrypted", {}),
    "a masked header": (archive_of(Member(central={"flags": 0x2800})), "entry 'a' is encrypted", {}),
    "encryption in the header alone": (
        archive_of(Member(local={"flags": 0x801})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another coding of the name": (
        archive_of(Member(local={"flags": 0})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another method": (
        archive_of(Member(local={"method": 8})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another name": (
        archive_of(Member(local={"name": b"b"})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another checksum": (
        archive_of(Member(local={"crc": 1})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another packed size": (
        archive_of(Member(local={"packed": 4})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "another size": (
        archive_of(Member(local={"size": 4})),
        "entry 'a' differs between its header and the directory",
        {},
    ),
    "two sizes of what is stored": (archive_of(Member(size=6)), "entry 'a' declares two different sizes", {}),
    "another disk": (
        archive_of(Member(central={"disk": 1})),
        "entry 'a' is in another part of a split archive",
        {},
    ),
    "an unknown method": (
        archive_of(Member(method=1)),
        "entry 'a' uses compression method 1; only stored and deflated are accepted",
        {},
    ),
    "a broken line": (
        archive_of(Member(central={"signature": b"PK\1\3"})),
        "not a valid zip archive (its directory is damaged)",
        {},
    ),
    "a folder that is a file": (
        archive_of(Member("d/", b"", 0, 0)),
        "entry 'd/' is neither a regular file nor a folder",
        {},
    ),
    "a file that is a folder": (
        archive_of(Member(central={"external": FOLDER})),
        "entry 'a' is neither a regular file nor a folder",
        {},
    ),
    "a folder twice": (
        archive_of(*[Member("d/", b"", 0, 0, central={"external": FOLDER})] * 2),
        "entry 'd/' occurs twice",
        {},
    ),
    "a header one byte off": (
        archive_of(Member(central={"header": 1})),
        "entry 'a' has no header at the position in the directory",
        {},
    ),
    "contents that reach into the directory": (
        archive_of(Member(central={"packed": 6, "size": 6}, local={"packed": 6, "size": 6})),
        "entry 'a' overlaps another entry",
        {},
    ),
    "contents that reach into the next": (
        archive_of(Member(central={"packed": 6, "size": 6}, local={"packed": 6, "size": 6}), Member("b")),
        "entry 'a' overlaps another entry",
        {},
    ),
    "two members in one place": (
        archive_of(Member(), Member(central={"header": 0}, name="b")),
        "entry 'a' overlaps another entry",
        {},
    ),
    "a gap before the directory": (
        archive_of(Member(), start=34),
        "not a valid zip archive (its directory has the wrong size or place)",
        {},
    ),
    "a directory that ends early": (
        archive_of(Member(), size=46),
        "not a valid zip archive (its directory has the wrong size or place)",
        {},
    ),
    "a directory of nothing": (
        archive_of(Member(), count=0, here=0),
        "not a valid zip archive (its directory has the wrong size or place)",
        {},
    ),
    "more entries than there is room for": (
        archive_of(Member(), count=2, here=2),
        "not a valid zip archive (its directory has the wrong size or place)",
        {},
    ),
    "a name longer than the directory": (
        archive_of(Member(), Member("b" * 60), count=3, here=3),
        "not a valid zip archive (its directory is cut off)",
        {},
    ),
    "two counts": (
        archive_of(Member(), here=2),
        "is one part of a split zip archive; send one whole archive",
        {},
    ),
    "a comment with the mark of the end": (
        archive_of(Member(), comment=b"PK\5\6"),
        "not a zip archive",
        {},
    ),
    "a comment with another end": (
        archive_of(Member(), comment=b"<" + END + b">"),
        "not a valid zip archive (there is data after its end)",
        {},
    ),
    "no name": (archive_of(Member("")), "entry '' has an empty or '.' part in its name", {}),
    "a header in the comment": (
        archive_of(
            Member(central={"header": len(archive_of(Member()))}),
            comment=b"PK\3\4",
        ),
        "entry 'a' has no header at the position in the directory",
        {},
    ),
    "an extra field without its bytes": (
        archive_of(Member(extra=struct.pack("<HH", 9, 1))),
        "entry 'a' has a damaged extra field",
        {},
    ),
    "an extra field without very many bytes": (
        archive_of(Member(extra=struct.pack("<HH", 9, 0xFFFF))),
        "entry 'a' has a damaged extra field",
        {},
    ),
    "a wide directory that is missing": (
        archive_of(before_end=LOCATOR, start=len(LOCATOR)),
        "not a valid zip archive (its ZIP64 record is misplaced)",
        {},
    ),
    "a second disk": (
        archive_of(Member(), disk=1),
        "is one part of a split zip archive; send one whole archive",
        {},
    ),
    "a directory on another disk": (
        archive_of(Member(), first=1),
        "is one part of a split zip archive; send one whole archive",
        {},
    ),
    "a comment that is longer": (
        archive_of(Member(), comment=b"12") + b"3",
        "not a valid zip archive (there is data after its end)",
        {},
    ),
    "a comment that is shorter": (
        archive_of(Member(), comment=b"12")[:-1],
        "not a valid zip archive (there is data after its end)",
        {},
    ),
    "a wide number that is missing": (
        archive_of(Member(central={"size": WIDE, "packed": WIDE}, extra=wide(5))),
        "entry 'a' lacks its ZIP64 sizes",
        {},
    ),
    "a wide number of seven bytes": (
        archive_of(
            Member(
                central={"size": WIDE},
                extra=struct.pack("<HH", 1, 7) + b"\5" + bytes(6) + struct.pack("<HH", 0x900, 0),
            )
        ),
        "entry 'a' lacks its ZIP64 sizes",
        {},
    ),
    "wide numbers under another name": (
        archive_of(Member(central={"size": WIDE}, extra=wide(5, identifier=2))),
        "entry 'a' lacks its ZIP64 sizes",
        {},
    ),
    "an extra field that is longer than it is": (
        archive_of(Member(extra=struct.pack("<HH", 9, 4) + b"123")),
        "entry 'a' has a damaged extra field",
        {},
    ),
    "a wide directory on two disks": (
        with_zip64(Member(), locator={"disks": 2}),
        "not a valid zip archive (its ZIP64 record is misplaced)",
        {},
    ),
    "a wide directory elsewhere": (
        with_zip64(Member(), locator={"end": 1}),
        "not a valid zip archive (its ZIP64 record is misplaced)",
        {},
    ),
    "a wide directory of another kind": (
        with_zip64(Member(), signature=b"PK\6\5"),
        "not a valid zip archive (its ZIP64 record is damaged)",
        {},
    ),
    "a longer wide record": (
        with_zip64(Member(), length=45),
        "not a valid zip archive (its ZIP64 record is damaged)",
        {},
    ),
    "a wide record of a second disk": (
        with_zip64(Member(), disk=1),
        "not a valid zip archive (its ZIP64 record is damaged)",
        {},
    ),
    "a wide directory of a second disk": (
        with_zip64(Member(), first=1),
        "not a valid zip archive (its ZIP64 record is damaged)",
        {},
    ),
    "two wide counts": (
        with_zip64(Member(), here=2),
        "not a valid zip archive (its ZIP64 record is damaged)",
        {},
    ),
    "one entry too many": (
        archive_of(Member(), Member("b")),
        "has 2 entries; this runner accepts at most 1",
        {"max_files": 1},
    ),
    "one byte too many": (
        archive_of(Member(), Member("b")),
        "unpacks to more than 9 bytes, the most that this runner accepts",
        {"max_unpacked": 9},
    ),
    "a ratio that is too high": (
        archive_of(Member()),
        "unpacks to more than 0 times its size",
        {"ratio_from": 4, "max_ratio": 0},
    ),
    "a ratio that is too high in all": (
        archive_of(deflated_member(), Member("b")),
        "unpacks to more than 2 times its size",
        {"ratio_from": 100, "max_ratio": 2},
    ),
}


@pytest.mark.parametrize(("raw", "reason", "limits"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused(raw: bytes, reason: str, limits: dict[str, int]) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        contents(raw, **limits)
    assert str(caught.value) == f"file: {reason}"
