"""JSON Schema, as far as the runner makes schemas or adds to those that msgspec makes."""

from __future__ import annotations

from typing import TypedDict

Schema = TypedDict(
    "Schema",
    {
        "$schema": str,
        "$ref": str,
        "$defs": "dict[str, Schema]",
        "title": str,
        "description": str,
        "examples": "list[object]",
        "type": "str | list[str]",
        "const": object,
        "default": object,
        "enum": "list[object]",
        "format": str,
        "pattern": str,
        "contentMediaType": str,
        "minLength": int,
        "maxLength": int,
        "minimum": float,
        "maximum": float,
        "exclusiveMinimum": float,
        "exclusiveMaximum": float,
        "items": "Schema",
        "minItems": int,
        "maxItems": int,
        "properties": "dict[str, Schema]",
        "patternProperties": "dict[str, Schema]",
        "additionalProperties": "bool | Schema",
        "required": "list[str]",
        "allOf": "list[Schema]",
        "anyOf": "list[Schema]",
        "oneOf": "list[Schema]",
        "if": "Schema",
        "then": "Schema",
    },
    total=False,
)
