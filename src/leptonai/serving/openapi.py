"""The OpenAPI document of a photon, made from its routes."""

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec

from leptonai.serving.arrays import ARRAY, is_array
from leptonai.serving.files import File, FileParam
from leptonai.serving.handlers import Route

_REFERENCE = "#/components/schemas/{name}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "type": "object",
    "properties": {"error": {"description": "what happened"}},
    "required": ["error"],
}


def document(title: str, description: str, routes: Iterable[Route]) -> dict[str, Any]:
    """OpenAPI 3.1.

    Raises:
        TypeError: a handler takes a type that cannot come as JSON.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    for route in routes:
        input_name, output_name = f"{route.schema_name}Input", f"{route.schema_name}Output"
        schemas |= _input_schemas(route)
        arguments = schemas[input_name]
        schemas[input_name] = _without(arguments, route.path_fields)
        returned, more = _output_schema(route)
        schemas |= more
        if not (route.returns is type(None) or _is_response(route.returns) or _is_stream(route)):
            schemas[output_name] = returned
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, arguments, input_name, output_name
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": description},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(
    route: Route, arguments: dict[str, Any], input_name: str, output_name: str
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.schema_name,
        "responses": _responses(route, output_name),
    }
    if route.description:
        operation["summary"] = route.description.splitlines()[0]
        operation["description"] = route.description
    in_query = route.input_type.__struct_fields__ if route.method == "GET" else ()
    parameters = [
        {
            "name": name,
            "in": "path" if name in route.path_fields else "query",
            "required": name in arguments.get("required", ()),
            "schema": arguments["properties"][name],
        }
        for name in dict.fromkeys((*route.path_fields, *in_query))
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.raw:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": _BINARY},
        }
    elif route.declared.takes_request:
        if route.method == "POST":
            operation["requestBody"] = {"content": {"*/*": {"schema": {}}}}
    elif route.method == "POST":
        content: dict[str, Any] = {"schema": _reference(input_name)}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _responses(route: Route, output_name: str) -> dict[str, Any]:
    if _is_response(route.returns):
        media = {route.returns.media_type: _BINARY}
        success: dict[str, Any] = {"200": {"description": "The result.", "content": media}}
    elif _is_stream(route):
        media = {kind: {"schema": {}} for kind in ("text/event-stream", "text/plain")}
        success = {"200": {"description": "The result, piece by piece.", "content": media}}
    elif route.returns is type(None):
        success = {"204": {"description": "Done."}}
    else:
        schema = _reference(output_name)
        success = {
            "200": {
                "description": "The result.",
                "content": {"application/json": {"schema": schema}},
            }
        }
    failure = {
        "description": "An argument is missing or wrong; the error names it.",
        "content": {"application/json": {"schema": _reference("Error")}},
    }
    return {**success, "422": failure}


def _input_schemas(route: Route) -> dict[str, Any]:
    try:
        _, schemas = msgspec.json.schema_components(
            [route.input_type], schema_hook=_file_schema, ref_template=_REFERENCE
        )
    except TypeError as error:
        raise TypeError(
            f"the handler of {route.method} {route.path} takes what cannot come as JSON: {error}"
        ) from None
    return schemas


def _without(arguments: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The schema of what is left when `names` come in the path."""
    return {
        **arguments,
        "properties": {k: v for k, v in arguments["properties"].items() if k not in names},
        "required": [name for name in arguments.get("required", ()) if name not in names],
    }


def _file_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, File | FileParam):
        text = {"type": "string", "description": "a URL, or data:…;base64,…"}
        if issubclass(kind, FileParam):
            text["description"] = "encoded:<base64>"
        return {"type": "object", "properties": {"content": text}, "required": ["content"]}
    raise NotImplementedError


def _result_schema(kind: type) -> dict[str, Any]:
    return _file_schema(kind) if issubclass(kind, File | FileParam) else {"title": kind.__name__}


def _is_response(returns: Any) -> bool:
    return inspect.isclass(returns) and hasattr(returns, "media_type")


def _is_stream(route: Route) -> bool:
    return inspect.isgeneratorfunction(route.call) or inspect.isasyncgenfunction(route.call)


def _output_schema(route: Route) -> tuple[dict[str, Any], dict[str, Any]]:
    if _is_response(route.returns) or _is_stream(route):
        return {}, {}
    returns = ARRAY if is_array(route.returns) else route.returns
    try:
        (schema,), more = msgspec.json.schema_components(
            [returns], ref_template=_REFERENCE, schema_hook=_result_schema
        )
    except TypeError:  # an annotation for people: what is returned shows whether it can be sent
        return {}, {}
    return schema, more


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=name)}
