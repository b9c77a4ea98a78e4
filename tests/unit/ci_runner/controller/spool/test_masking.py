"""Values of secrets in events and in pieces of an output: every form, at every place, however it is cut."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import shlex
import subprocess
import textwrap
from collections.abc import Callable
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci_runner.controller.spool.masking import MASK, NOTHING_TO_MASK, Masker, forms
from ci_runner.model.job import JobEvent, ParsedFields

SECRET = 'p@ss/w0rd+"quoted"\\ & <ünï>\'s €'
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nab\nkqhkiG9w0BAQEF\n-----END KEY-----\n"


def shown(masker: Masker, text: str) -> str:
    """As `text` and as `data` show it, which is the same."""
    as_data = masker.data(text.encode()).data.decode()
    assert as_data == masker.text(text)
    return as_data


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda value: value,
    "JSON": json.dumps,
    "JSON with its characters": lambda value: json.dumps(value, ensure_ascii=False),
    "JSON as PHP has it": lambda value: json.dumps(value).replace("/", "\\/"),
    "repr": repr,
    "repr of a longer text": lambda value: repr(f"{value}"),
    "repr with single quotes": lambda value: repr("\"'" + value),
    "ascii": ascii,
    "Python's escapes without quotes": lambda value: value.encode("unicode_escape").decode(),
    "repr of bytes": lambda value: repr(value.encode()),
    "URL": lambda value: quote(value, safe=""),
    "URL with slashes": quote,
    "form": quote_plus,
    "URL in lower case": lambda value: re.sub("%..", lambda found: found[0].lower(), quote(value, safe="")),
    "HTML": html.escape,
    "XML text": lambda value: html.escape(value, quote=False),
    "XML attribute": lambda value: (
        html.escape(value, quote=False).replace('"', "&quot;").replace("'", "&apos;")
    ),
    "XML attribute as Python writes it": quoteattr,
    "shell": shlex.quote,
    "bash": lambda value: (
        subprocess.run(
            ["bash", "-c", 'set -x; : "$1"', "x", value],
            env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    ),
    "hexadecimal": lambda value: value.encode().hex(),
    "HEXADECIMAL": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()).decode(),
    "base64 in lines": lambda value: base64.encodebytes(value.encode()).decode(),
    "base64 in lines of PEM": lambda value: "\n".join(
        textwrap.wrap(base64.b64encode(value.encode()).decode(), 64)
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "secret", [SECRET, "s3cr3t-t0ken", SECRET * 5, "it's", "it\\'s", "x" * 58, "Straße 7?"]
)
def test_a_value_is_found_in_every_form(form: str, secret: str) -> None:
    written = FORMS[form](secret)
    text = shown(Masker([secret]), f"before {written} behind")
    assert text.count(MASK) == 1
    left = text.removeprefix("before ").removesuffix(" behind").replace(MASK, "")
    assert left.strip("+ :\n\\b'\"") == "", "only what the form puts around any value"


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("behind", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_text_with_the_value_in_it(
    before: int, behind: int, encode: Callable[[bytes], bytes]
) -> None:
    secret = "s3cr3t-t0ken?>~"
    whole = encode(b"u:?>+/.:"[:before] + secret.encode() + b"@h>?"[:behind]).decode()
    text = shown(Masker([secret]), f"Basic {whole} ")
    assert text.count(MASK) == 1
    left = text.removeprefix("Basic ").strip().replace(MASK, "")
    first, end = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
    assert len(left) <= len(whole) - (end - first), "only characters that depend on what is around"


@pytest.mark.parametrize("before", range(3))
def test_base64_of_a_text_with_a_value_of_five_characters_in_it(before: int) -> None:
    """Six characters of it are the same whatever is around; fewer would be found in ordinary text."""
    whole = base64.b64encode(b"u:?"[:before] + b"tok3n" + b"@hosts").decode()
    assert shown(Masker(["tok3n"]), whole).count(MASK) == 1


BYTES = b"\xff\xfet0k3n\xfd/\xfc"


@pytest.mark.parametrize(
    "written",
    [
        BYTES,
        BYTES.hex().encode(),
        repr(BYTES).encode()[2:-1],
        json.dumps(BYTES.decode("utf-8", "surrogateescape")).encode()[1:-1],
        quote(BYTES).encode(),
        quote(BYTES, safe="").encode(),
        quote_plus(BYTES, safe="/").encode(),
        base64.b64encode(BYTES),
    ],
)
def test_a_value_that_is_not_utf_8_is_found_in_every_form(written: bytes) -> None:
    """As Python has it in `os.environ`."""
    masker = Masker([BYTES.decode("utf-8", "surrogateescape")])
    assert masker.data(b"<" + written + b">").data == f"<{MASK}>".encode()


def test_white_space_around_a_value_does_not_matter() -> None:
    assert shown(Masker(["  s3cr3t\n"]), "is s3cr3t.") == f"is {MASK}."
    assert Masker(["\n \t"]).text("a\n \tb") == "a\n \tb"


def test_a_value_of_several_lines_is_found_whole_and_line_by_line() -> None:
    masker = Masker([PEM])
    assert shown(masker, f"<{PEM.strip()}>") == f"<{MASK}>"
    assert shown(masker, "x kqhkiG9w0BAQEF y\nab\n") == f"x {MASK} y\nab\n"
    assert shown(masker, json.dumps({"key": PEM})) == f'{{"key": "{MASK}\\n"}}'


def test_short_values_are_left_alone() -> None:
    assert not Masker(["", "abc", " ab ", "\n"])
    assert forms("abc") == frozenset()
    assert Masker(["abc"]).text("abc YWJj 616263") == "abc YWJj 616263"


def test_the_shortest_and_the_longest_value() -> None:
    assert shown(Masker(["abcd"]), "<abcd>") == f"<{MASK}>"
    longest = "x" * (1 << 18)
    assert longest in forms(longest)
    assert longest + "x" not in forms(longest + "x")
    assert Masker().longest == 0
    assert NOTHING_TO_MASK.withheld(b"abc") == 0
    assert Masker(["x" * 99]).longest == len(("x" * 99).encode().hex())


def test_a_value_is_found_wherever_it_stands() -> None:
    assert shown(Masker(["s3cr3t"]), "s3cr3t, s3cr3t, s3cr3t!") == f"{MASK}, {MASK}, {MASK}!"


def test_values_that_overlap_leave_nothing_of_either() -> None:
    masker = Masker(["abcdef", "defghi"])
    assert shown(masker, "<abcdefghi>") == f"<{MASK}>"
    assert shown(Masker(["abab"]), "<ababab>") == f"<{MASK}>"
    assert shown(Masker(["aaaa"]), "<aaaaa>") == f"<{MASK}>"
    assert shown(Masker(["abcd", "efgh"]), "abcdefgh abcd") == f"{MASK} {MASK}"


def test_events_are_masked_in_every_field() -> None:
    fields = ParsedFields({"longrepr": ["a s3cr3t b", {"s3cr3t": "s3cr3t"}], "n": 3, "none": None})
    report, log, plain = Masker(["s3cr3t"]).events(
        [
            JobEvent("report", fields=fields),
            JobEvent("log", "s3cr3t"),
            JobEvent("report", fields=ParsedFields(a="b")),
        ]
    )
    assert report.fields == {"longrepr": [f"a {MASK} b", {MASK: MASK}], "n": 3, "none": None}
    assert log.data == "s3cr3t", "output is masked where it is read"
    assert isinstance(plain.fields, ParsedFields)
    assert NOTHING_TO_MASK.events([report]) == [report]


def test_the_text_of_an_event_that_is_no_output_is_masked_without_its_fields() -> None:
    """Alone and beside fields: neither may hide the other."""
    [alone, beside] = Masker(["s3cr3t"]).events(
        [JobEvent("note", "a s3cr3t b"), JobEvent("note", "s3cr3t", fields={"reason": "no s3cr3t"})]
    )
    assert (alone.data, alone.fields) == (f"a {MASK} b", {})
    assert (beside.data, beside.fields) == (MASK, {"reason": f"no {MASK}"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("it is s3c", 3),
        ("it is s", 1),
        ("it is s3cr3", 5),
        ("it is", 1),
        ("it is s3cr3t", 0),
        ("it was", 1),
        ("it was!", 0),
        ("s3cr3ts3c", 3),
        ("", 0),
        ("s3cr3s", 1),
        ("s3c", 3),
        ("it is s3", 2),
    ],
)
def test_an_end_that_may_be_a_beginning_is_withheld(text: str, size: int) -> None:
    assert Masker(["s3cr3t"]).withheld(text.encode()) == size


@pytest.mark.parametrize(
    ("secret", "text", "size"),
    [
        ("abcdefghijkl", "xx abcdefghij", 10),
        ("abcdefghijkl", "xx abcdefg", 7),
        ("abcdefghijkl", "abcdefghXYZ", 0),
        ("ababababababX", "xababababababab", 12),
        ("abcdefgh0123456789XY", "abcdefgh--abcdefgh0", 9),
        ("abcdefghabcdefgh0123456789ABCD", "abcdefgh-abcdefghabcdefgh", 16),
        ("aaaaaaaaabbbbb", "aaaaaaaaaa", 9),
    ],
)
def test_the_longest_end_that_may_be_a_beginning_is_withheld(secret: str, text: str, size: int) -> None:
    assert Masker([secret]).withheld(text.encode()) == size


def test_more_is_withheld_where_a_search_would_take_long() -> None:
    assert 8 <= Masker(["a" * 8 + "b" * 100]).withheld(b"a" * 1000) <= 107


@pytest.mark.parametrize("before", [b"", b"x" * 600_000], ids=["little", "much"])
def test_a_whole_value_is_not_withheld_in_part(before: bytes) -> None:
    assert Masker(["abcabc"]).withheld(before + b"xabcabc") == 0
    assert Masker(["abcabc"]).withheld(before + b"xabcabc-ab") == 2
    # The first line of a longer value: nothing says yet which of the two it is.
    assert Masker(["tok1", "tok1\nab\ncd"]).withheld(before + b"is tok1") == 4


@pytest.mark.parametrize("secret", ["a" * 65_536, "ab" * 32_768, "a" * 65_535 + "b", "\U0001f600" * 16_384])
def test_values_that_repeat_themselves_take_no_long_time(secret: str) -> None:
    masker = Masker([secret])
    data = ("a" * 1_000_000).encode()
    assert len(masker.data(data).data) <= len(data)
    assert masker.withheld(data) <= len(secret.encode()) * 4
    assert MASK in masker.data(secret.encode()).data.decode()


def pieces_of(masker: Masker, data: bytes, cuts: list[int]) -> bytes:
    """What is shown of `data` that arrives in pieces: each time what was withheld is read again with what is new."""
    found, at = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        piece = data[at:cut]
        last = cut == len(data)
        size = 0 if last else masker.withheld(piece)
        found += masker.data(piece[: len(piece) - size]).data
        at += len(piece) - size
    return found


@given(st.data())
def test_however_an_output_is_cut_no_value_is_shown(data: st.DataObject) -> None:
    secrets = data.draw(st.lists(st.text("ab1", min_size=4, max_size=9), min_size=1, max_size=3))
    parts = data.draw(
        st.lists(st.one_of(st.sampled_from(secrets), st.text("ab1 \n", max_size=4)), max_size=12)
    )
    text = "|".join(parts).encode()
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    found = pieces_of(Masker(secrets), text, cuts)
    for secret in secrets:
        assert secret.encode() not in found


def test_each_place_in_masked_data_is_one_of_what_was_read() -> None:
    masked = Masker(["s3cr3t", "geheim-1"]).data(b"a s3cr3t bc geheim-1!")
    assert masked.data == b"a *** bc ***!"
    assert [masked.read(used) for used in range(14)] == [0, 1, 2, 2, 2, 8, 9, 10, 11, 12, 12, 12, 20, 21]
    assert Masker(["s3cr3t"]).data(b"plain").read(3) == 3


@given(st.data())
def test_places_in_masked_data_are_those_of_what_was_read(data: st.DataObject) -> None:
    secrets = ["s3cr3t", "geheim"]
    parts = data.draw(st.lists(st.sampled_from([*secrets, "x", "yy\n", "ü"]), max_size=9))
    raw = "".join(parts).encode()
    masked = Masker(secrets).data(raw)
    assert masked.read(len(masked.data)) == len(raw)
    places = [masked.read(used) for used in range(len(masked.data) + 1)]
    assert places == sorted(places)
    for used, place in enumerate(places):
        # What is read again from there shows the same, but for stars that were shown already.
        rest = Masker(secrets).data(raw[place:]).data
        assert rest.replace(b"*", b"") == masked.data[used:].replace(b"*", b"")


def test_long_output_without_values_stays_as_it_is() -> None:
    data = random.Random(1).randbytes(1 << 20)
    masker = Masker([f"token-{number}-{'x' * number}" for number in range(20)])
    assert masker.data(data).data == data
