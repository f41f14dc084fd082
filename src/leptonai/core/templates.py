"""Templates: what their parameters may be, and what comes of them. Pure.

A text of a template's content may hold `{{name}}`: the value of the parameter `name`. A text that
is nothing else becomes the value itself, a number say; inside of a text it stands as text, and
`{{name|quote}}` as one word of a shell command, whatever it holds.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.spec import codec
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.jobs import JobSpec
from leptonai.spec.templates import TemplateSpec

MAX_PARAMETERS = 100
MAX_VALUE_CHARS = 64 << 10
MAX_FILLED_CHARS = 1 << 20  # that are put in place of all `{{name}}` together

_PLACE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*(\|\s*quote\s*)?\}\}")
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
}
# What of JSON schema a parameter may say.
_KNOWN = {
    *("type", "title", "description", "default", "enum"),
    *("minimum", "maximum", "maxLength", "additionalProperties"),
}


def rendered(spec: TemplateSpec, given: Mapping[str, Any]) -> JobSpec | EndpointSpec:
    """The workload that a template becomes.

    Raises:
        InvalidRequest: a parameter is missing, unknown or wrong, or what comes of it is no spec.
    """
    values = _values(spec, given)
    content = _Filling(values).of(spec.content)
    if spec.workload_type == "job":
        return codec.convert(JobSpec, codec.known_part(JobSpec, content)[0])
    made = codec.convert(EndpointSpec, codec.known_part(EndpointSpec, content)[0])
    return msgspec.structs.replace(made, is_pod=True) if spec.workload_type == "pod" else made


def check_template(spec: TemplateSpec) -> None:
    """Refuse a template that nobody could render.

    Raises:
        InvalidRequest
    """
    parameters = _parameters(spec)
    for name, schema in parameters.items():
        where = f"spec.json_schema.properties.{name}"
        strange = sorted(set(schema) - _KNOWN)
        if strange:
            raise InvalidRequest(
                f"{where}: {strange[0][:60]!r} is not read here",
                hint=f"A parameter says {', '.join(sorted(_KNOWN))}.",
            )
        for word, value in schema.items():
            if not _fits(word, value):
                raise InvalidRequest(
                    f"{where}.{word}: {str(value)[:60]!r} is not possible there",
                    hint=f"Types are {', '.join(_KINDS)}; bounds are numbers, an enum is a list.",
                )
        if "default" in schema:
            _checked(name, schema, schema["default"])
    required = (spec.json_schema or {}).get("required") or []
    if not isinstance(required, list) or not all(each in parameters for each in map(str, required)):
        raise InvalidRequest(
            "spec.json_schema.required: names no parameters", hint="List names of properties."
        )
    used = _used(spec.content)
    unknown = sorted(used - set(parameters))
    if unknown:
        raise InvalidRequest(
            f"spec.content: names a parameter {unknown[0][:60]!r} that json_schema does not have",
            hint="Describe it under json_schema.properties.",
        )
    rendered(spec, {name: _example(schema) for name, schema in parameters.items()})


def _fits(word: str, value: Any) -> bool:
    if word == "type":
        return isinstance(value, str) and value in _KINDS
    if word in ("minimum", "maximum"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if word == "maxLength":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if word == "enum":
        return isinstance(value, list) and all(isinstance(e, str | int | float) for e in value)
    return word in ("default", "additionalProperties") or isinstance(value, str)


def _values(spec: TemplateSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = _parameters(spec)
    for name in given:
        if name not in parameters:
            raise InvalidRequest(
                f"{name[:60]}: the template has no such parameter",
                hint=codec.suggestion(name[:60], sorted(parameters)),
            )
    required = (spec.json_schema or {}).get("required") or ()
    values: dict[str, Any] = {}
    for name, schema in parameters.items():
        value = given.get(name, schema.get("default"))
        if value is None:
            if name in required:
                raise InvalidRequest(
                    f"{name}: is required", hint=str(schema.get("description") or "Give a value.")
                )
            values[name] = None
        else:
            values[name] = _checked(name, schema, value)
    return values


def _parameters(spec: TemplateSpec) -> dict[str, dict[str, Any]]:
    properties = (spec.json_schema or {}).get("properties") or {}
    if not isinstance(properties, dict) or len(properties) > MAX_PARAMETERS:
        raise InvalidRequest(
            "spec.json_schema.properties: expected an object",
            hint=f"It describes each parameter, {MAX_PARAMETERS} at most.",
        )
    for name, schema in properties.items():
        if not isinstance(schema, dict) or not _PLACE.fullmatch(f"{{{{{name}}}}}"):
            raise InvalidRequest(
                f"spec.json_schema.properties.{name[:60]}: is no parameter",
                hint="Names are letters, digits and underscores; each is described by an object.",
            )
    return properties


def _checked(name: str, schema: Mapping[str, Any], value: Any) -> Any:
    kind = str(schema.get("type", "string"))
    right = isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not right:
        raise InvalidRequest(f"{name}: expected {kind}", hint="See the template's json_schema.")
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        raise InvalidRequest(
            f"{name}: there is no {str(value)[:60]!r}",
            hint=f"Use one of {', '.join(map(str, allowed))}.",
        )
    if isinstance(value, str):
        most = schema.get("maxLength", MAX_VALUE_CHARS)
        if len(value) > min(int(most), MAX_VALUE_CHARS):
            raise InvalidRequest(f"{name}: is too long", hint=f"At most {most} characters.")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = schema.get("minimum"), schema.get("maximum")
        if (least is not None and value < least) or (most is not None and value > most):
            raise InvalidRequest(f"{name}: {value} is out of bounds", hint="See its json_schema.")
    return value


def _example(schema: Mapping[str, Any]) -> Any:
    if schema.get("default") is not None:
        return schema["default"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind in ("integer", "number"):
        bounds = [schema[each] for each in ("minimum", "maximum") if schema.get(each) is not None]
        return bounds[0] if bounds else 1
    if kind == "object":
        return {}
    return True if kind == "boolean" else "x"


class _Filling:
    """Fills values in, within a bound: a place is a few characters, and its value may be many."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._left = MAX_FILLED_CHARS

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self.of(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.of(each) for each in value]
        if not isinstance(value, str):
            return value
        whole = _PLACE.fullmatch(value)
        if whole and not whole[2] and whole[1] in self._values:
            found = self._values[whole[1]]
            self._spend(found)
            return found
        return _PLACE.sub(self._text, value)

    def _text(self, found: re.Match[str]) -> str:
        if found[1] not in self._values:  # not ours: another language's braces
            return found[0]
        value = self._values[found[1]]
        self._spend(value)
        if value is None:
            text = ""
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
        return shlex.quote(text) if found[2] else text

    def _spend(self, value: Any) -> None:
        self._left -= len(value) if isinstance(value, str) else 1
        if self._left < 0:
            raise InvalidRequest(
                "the template becomes too large with these values",
                hint=f"At most {MAX_FILLED_CHARS} characters are filled in; put more into a file.",
            )


def _used(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_used, value.values()))
    if isinstance(value, list):
        return set().union(*map(_used, value))
    return {found[1] for found in _PLACE.finditer(value)} if isinstance(value, str) else set()
