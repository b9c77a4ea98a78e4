"""The table of docs/internals/index.md that says who may import whom, made from the one that `test_architecture` holds.

`python tests/import_table.py` writes it into the page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "internals" / "index.md"
BEGIN = "<!-- made by `python tests/import_table.py` -->\n"
END = "<!-- end of what is made -->\n"

#: Name of a row → (prefixes of its modules, rows that it may import, third-party packages that it may import).
JobRows = Mapping[str, tuple[Sequence[str], Sequence[str], Collection[str]]]


def markdown(rows: JobRows) -> str:
    """The table as lines of Markdown."""
    lines = ["| name | modules | may import of ours | of others |", "|---|---|---|---|"]
    for name, (prefixes, ours, others) in rows.items():
        modules, packages = (", ".join(f"`{word}`" for word in words) for words in (prefixes, sorted(others)))
        lines.append(f"| {name} | {modules} | {', '.join(ours)} | {packages or 'nothing'} |")
    return "\n".join(lines) + "\n"


def with_table(page: str, rows: JobRows) -> str:
    """The text of the page with the table as it is now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{PAGE} lacks the line {BEGIN!r}"
    assert end, f"{PAGE} lacks the line {END!r}"
    return before + begin + markdown(rows) + end + after


if __name__ == "__main__":
    from test_architecture import TABLE

    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), TABLE), encoding="utf-8")
