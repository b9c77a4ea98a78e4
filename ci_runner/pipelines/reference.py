"""Generate the tables of keys in docs/guide/pipelines.md and the JSON schema for editors, both from `keys`.

``python -m ci_runner.pipelines.reference DOCS`` updates the files in that folder.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ci_runner.model.json_schema import Schema
from ci_runner.pipelines.parsing.key_table import JOB, PIPELINE, SHARED, STAGE, Key

PAGE: Final = "guide/pipelines.md"
SCHEMA: Final = "reference/pipeline.schema.json"


def spellings(name: str, key: Key) -> list[str]:
    """Return all spellings of a key, the usual one first."""
    found = []
    for each in (name, *key.also):
        first, *rest = each.split("-")
        found += [each, each.replace("-", "_"), first + "".join(part.capitalize() for part in rest)]
    return list(dict.fromkeys(found))


def table(keys: Mapping[str, Key]) -> str:
    """Return a table of keys for the documentation."""
    lines = ["| key | value | meaning |", "|---|---|---|"]
    for name, key in keys.items():
        others = [f"`{other}`" for other in spellings(name, key) if other != name]
        also = f"<br>also {', '.join(others)}" if others else ""
        lines.append(f"| `{name}`{also} | {key.value.replace('|', chr(92) + '|')} | {key.meaning} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """Return `text` with new tables, which are between the comments ``keys of …`` and ``end``."""
    made = {"a pipeline": table(PIPELINE), "a stage": table(STAGE), "a job": table(JOB)}
    return re.sub(
        r"(<!-- keys of ([a-z ]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _properties(keys: Mapping[str, Key]) -> dict[str, Schema]:
    return {
        written: {"description": key.meaning, **key.schema}
        for name, key in keys.items()
        for written in spellings(name, key)
    }


def schema() -> Schema:
    """Return the JSON schema for editors; it does not cover the checks of `validate`."""
    job: Schema = {"type": "object", "properties": _properties(JOB), "additionalProperties": False}
    job["patternProperties"] = {"^x-": {}}
    reference: Schema = {"$ref": "#/$defs/job"}
    jobs: Schema = {"type": "array", "items": reference}
    pipeline = _properties(PIPELINE)
    pipeline["jobs"] |= {"oneOf": [jobs, {"type": "object", "additionalProperties": reference}]}
    properties = _properties(STAGE)
    properties["jobs"] |= jobs
    stage: Schema = {
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": False,
    }
    pipeline["stages"] |= {"items": {"oneOf": [{"type": "string", "minLength": 1}, stage]}, "minItems": 1}
    pipeline["global"] |= {"properties": _properties(SHARED), "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of pytest-remote-ci",
        "$defs": {"job": job},
        "type": "object",
        "properties": pipeline,
        "patternProperties": {"^x-": {}},
        "required": ["stages"],
        "additionalProperties": False,
    }


def main(folder: Path) -> None:
    """Write both files."""
    file = folder / PAGE
    file.write_text(page(file.read_text("utf-8")), "utf-8")
    (folder / SCHEMA).write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
