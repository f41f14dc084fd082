"""The OpenAPI document, made of the route table."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from leptonai.control.api.routing import JSON, Parameter, Route, Scope

REFERENCES = "#/components/schemas/{name}"
MERGE_PATCH = "application/merge-patch+json"
_SPANNING = re.compile(":path}")  # of a part that may hold slashes
_KINDS = {str: "string", int: "integer", bool: "boolean"}


class Problem(msgspec.Struct):
    """What happened, and what to do next."""

    code: str
    message: str
    hint: str


def document(routes: Sequence[Route], *, version: str) -> bytes:
    types = [Problem]
    for route in routes:
        types += [each for each in (route.body, route.answer) if each is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCES)
    references = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, references, components)
        paths.setdefault(_SPANNING.sub("}", route.full_path), {})[route.method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Lepton", "version": version},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}],
        }
    )


def _operation(
    route: Route, references: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": _operation_id(route),
        "tags": [_tag(route)],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"{(\w+)", route.full_path)
            ),
            *(_parameter(parameter) for parameter in route.query),
        ],
        "responses": {
            str(route.status): _response(route, references),
            **({"206": _response(route, references)} if route.ranges else {}),
            **({"204": {"description": route.nothing}} if route.nothing else {}),
            "default": {
                "description": "What happened, and what to do next.",
                "content": {JSON: {"schema": references[repr(Problem)]}},
            },
        },
    }
    if route.body is not None:
        schema, media = references[repr(route.body)], JSON
        if route.patch:  # every field of it may be left out
            whole = components[schema["$ref"].rpartition("/")[2]]
            schema, media = {"type": "object", "properties": whole["properties"]}, MERGE_PATCH
        content = {each: {"schema": schema} for each in dict.fromkeys((media, JSON))}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.raw_body:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _response(route: Route, references: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None and route.media == JSON:
        return {"description": "Done."}
    if route.answer is None:
        media = route.media.partition(";")[0]
        return {"description": "The content.", "content": {media: {"schema": {"type": "string"}}}}
    return {
        "description": "The answer.",
        "content": {JSON: {"schema": references[repr(route.answer)]}},
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": _KINDS[parameter.kind]}
    if parameter.least is not None:
        schema["minimum"] = parameter.least
    if parameter.most is not None:
        schema["maximum"] = parameter.most
    if parameter.repeated:
        schema = {"type": "array", "items": schema}
    described = {"description": parameter.about} if parameter.about else {}
    return {"name": parameter.name, "in": "query", "schema": schema, **described}


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", route.path) or ["root"]
    return "_".join([route.method.lower(), *words])


def _tag(route: Route) -> str:
    if route.scope is Scope.PLATFORM:
        return "platform"
    words = re.findall(r"[\w-]+", route.path)
    return words[0] if words else "workspace"
