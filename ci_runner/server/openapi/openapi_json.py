"""The parts of an OpenAPI document that the runner's own has."""

from __future__ import annotations

from typing import TypedDict

from ci_runner.model.json_schema import Schema


class Header(TypedDict, total=False):
    """A header of a response."""

    schema: Schema
    description: str


class FormPart(TypedDict):
    """A part of a form."""

    contentType: str


class MediaType(TypedDict, total=False):
    """A body of one media type."""

    schema: Schema
    encoding: dict[str, FormPart]


class Response(TypedDict, total=False):
    """A response."""

    description: str
    content: dict[str, MediaType]
    headers: dict[str, Header]


class RequestBody(TypedDict, total=False):
    """The body of a request."""

    required: bool
    content: dict[str, MediaType]


#: A parameter of a route.
Parameter = TypedDict(
    "Parameter",
    {"name": str, "in": str, "description": str, "required": bool, "schema": Schema, "example": object},
    total=False,
)


class Operation(TypedDict, total=False):
    """A method of a path."""

    summary: str
    responses: dict[str, Response]
    security: list[dict[str, list[str]]]
    requestBody: RequestBody
    parameters: list[Parameter]


class Info(TypedDict):
    """What the API is."""

    title: str
    version: str
    description: str


class SecurityScheme(TypedDict):
    """How requests are authenticated."""

    type: str
    scheme: str
    bearerFormat: str


class Components(TypedDict):
    """The schemas that others refer to."""

    schemas: dict[str, Schema]
    securitySchemes: dict[str, SecurityScheme]


#: Path → method → operation.
Paths = dict[str, dict[str, Operation]]


class Document(TypedDict):
    """The document."""

    openapi: str
    info: Info
    paths: Paths
    components: Components
