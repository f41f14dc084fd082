"""JSON at the border: strict about what comes in, exact about where it is wrong."""

import difflib
import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from leptonai.errors import InvalidRequest, TooLarge

T = TypeVar("T")

MAX_BODY_BYTES = 2 << 20
MAX_DEPTH = 64  # of nested lists and objects
MAX_STRING_CHARS = 128 << 10  # the kernel's own bound on one argument or variable
MAX_INTEGER = (1 << 53) - 1  # what every JSON reader keeps exactly


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def decode(kind: type[T], raw: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> T:
    """Read `raw` as a `kind`.

    Raises:
        InvalidRequest: it is not JSON, or not such a value; the message names the place.
        TooLarge: it has more than `max_bytes`.
    """
    return convert(kind, parse(raw, max_bytes=max_bytes))


def parse(raw: bytes, *, max_bytes: int = MAX_BODY_BYTES) -> Any:
    """Read JSON into plain lists and dicts, bounded in every way."""
    if len(raw) > max_bytes:
        raise TooLarge(
            f"the body has {len(raw)} bytes; at most {max_bytes} are read",
            hint="Send files as blobs, and the rest in several requests.",
        )
    try:
        value = msgspec.json.decode(raw)
    except RecursionError:
        raise _too_deep("") from None
    except msgspec.DecodeError as error:
        raise _malformed(raw, str(error)) from None
    except UnicodeDecodeError as error:
        raise _malformed(raw, f"not UTF-8 (byte {error.start})") from None
    _check_bounds(value, "", MAX_DEPTH)
    return value


def convert(kind: type[T], value: Any) -> T:
    """Make a `kind` of what `parse` read, or of a part of it."""
    refuse_unknown_fields(kind, value)
    try:
        return msgspec.convert(value, kind, str_keys=True)  # as those of JSON objects are
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None


def refuse_unknown_fields(kind: Any, value: Any) -> None:
    """Raise InvalidRequest at the first field that a `kind` does not have: it is almost always a
    slip of the keyboard, and ignoring it would do something else than was asked."""
    _without_unknown(kind, value, "", _refuse)


def known_part(kind: Any, value: Any) -> tuple[Any, list[str]]:
    """`value` without the fields that a `kind` does not have, and the places of those."""
    ignored: list[str] = []
    return _without_unknown(
        kind, value, "", lambda path, key, _: ignored.append(_join(path, key))
    ), ignored


def merge_patch(target: Any, patch: Any) -> Any:
    """`target` after a JSON merge patch (RFC 7386): objects merge, null deletes, the rest replaces.

    Neither argument is changed.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def difference(before: Any, after: Any) -> Any:
    """The merge patch that makes `after` of `before`, neither of which holds a null."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value:
            patch[key] = difference(before[key], value)
    return patch


def suggestion(word: str, known: list[str]) -> str:
    """A hint: the nearest of the known words, or all of them where none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known here: {', '.join(sorted(known))}." if known else "Nothing is expected here."


def _without_unknown(
    kind: Any, value: Any, path: str, found: Callable[[str, str, list[str]], None]
) -> Any:
    if isinstance(value, dict):
        fields = _fields(kind)
        if fields is None:
            item = _item(kind)
            if item is None:
                return value
            return {
                key: _without_unknown(item, each, _join(path, key), found)
                for key, each in value.items()
            }
        known = {}
        for key, each in value.items():
            if key in fields:
                known[key] = _without_unknown(fields[key], each, _join(path, key), found)
            else:
                found(path, key, list(fields))
        return known
    item = _item(kind) if isinstance(value, list) else None
    if item is None:
        return value
    return [
        _without_unknown(item, each, f"{path}[{index}]", found) for index, each in enumerate(value)
    ]


def _refuse(path: str, key: str, known: list[str]) -> None:
    raise _unknown_field(path, key, known)


def _check_bounds(value: Any, path: str, depth_left: int) -> None:
    if isinstance(value, str):
        _check_string(value, path)
    elif isinstance(value, dict):
        if depth_left == 0:
            raise _too_deep(path)
        for key, each in value.items():
            _check_string(key, path)
            if each.__class__ in _CHECKED:
                _check_bounds(each, _join(path, key), depth_left - 1)
    elif isinstance(value, list):
        if depth_left == 0:
            raise _too_deep(path)
        for index, each in enumerate(value):
            if each.__class__ in _CHECKED:
                _check_bounds(each, f"{path}[{index}]", depth_left - 1)
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InvalidRequest(
            f"{_at(path)}the number is out of range",
            hint=f"Integers go from -{MAX_INTEGER} to {MAX_INTEGER}.",
        )


_CHECKED = frozenset({str, dict, list, int})


def _check_string(text: str, path: str) -> None:
    if len(text) > MAX_STRING_CHARS:
        raise InvalidRequest(
            f"{_at(path)}a text of {len(text)} characters",
            hint=f"A text has at most {MAX_STRING_CHARS} characters; put more into a file.",
        )
    if "\0" in text:
        raise InvalidRequest(
            f"{_at(path)}the text holds a NUL character", hint="Leave it out, or encode the text."
        )


def _too_deep(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{_at(path[:200])}lists and objects are nested too deeply",
        hint=f"At most {MAX_DEPTH} levels are read.",
    )


def _malformed(raw: bytes, because: str) -> InvalidRequest:
    """The message names line and column, both from 1."""
    match = re.search(r"\(byte (\d+)\)", because)
    offset = min(int(match[1]) if match else len(raw), len(raw))
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - (raw.rfind(b"\n", 0, offset) + 1) + 1
    reason = re.sub(r"\s*\(byte \d+\)", "", because).removeprefix("JSON is malformed: ")
    reason = {"Input data was truncated": "it ends too early"}.get(reason, reason)
    if not raw.strip():
        return InvalidRequest("the body is empty", hint="Send a JSON document.")
    if raw[offset:].startswith((b"NaN", b"Infinity", b"-Infinity")):
        reason = "NaN and Infinity are no JSON numbers"
    return InvalidRequest(
        f"the body is not JSON: {reason} at line {line}, column {column}",
        hint="Check the document at that place.",
    )


_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_EXPECTED = re.compile(r"Expected `([^`]+)`(.*)", re.DOTALL)


def _invalid(message: str, whole: Any) -> InvalidRequest:
    """msgspec's words as ours: the place first, and no more than is needed."""
    what, _, place = message.rpartition(" - at `")
    if not what:
        what, place = message, ""
    path = place.rstrip("`").removeprefix("$").removeprefix(".")
    missing = _MISSING.match(what)
    if missing:
        return InvalidRequest(
            f"{_join(path, missing[1])}: is required", hint="Add the field and send it again."
        )
    expected = _EXPECTED.match(what)
    if expected:
        kind = expected[1].removesuffix(" | null")
        what = f"expected {kind}{expected[2].replace('`', '')}"
    else:
        what = what.replace("`", "").replace("Invalid", "invalid", 1)
    choices = _choices(_kind_at(whole, path)) if "enum value" in what else []
    return InvalidRequest(
        f"{_at(path) or 'the body: '}{what}",
        hint=f"Use one of {', '.join(choices)}."
        if choices
        else "The server's /openapi.json describes every field.",
    )


def _unknown_field(path: str, key: str, known: list[str]) -> InvalidRequest:
    shown = key if len(key) <= 60 else key[:60] + "…"
    return InvalidRequest(
        f"{_join(path, shown)}: there is no such field", hint=suggestion(shown, known)
    )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _at(path: str) -> str:
    return f"{path}: " if path else ""


@lru_cache(maxsize=1024)
def _bare(kind: Any) -> Any:
    """The type without bounds and without the null it may also be."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        rest = [each for each in get_args(kind) if each is not NoneType]
        return _bare(rest[0]) if len(rest) == 1 else Any
    return kind


@lru_cache(maxsize=1024)
def _fields(kind: Any) -> dict[str, Any] | None:
    """A struct's fields by their name on the wire."""
    bare = _bare(kind)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(bare)}
    return None


def _kind_at(kind: Any, path: str) -> Any:
    """What stands at `a.b[0].c` of a `kind`."""
    for name, index in re.findall(r"([^.\[\]]+)|(\[[^\]]*\])", path):
        fields = None if index else _fields(kind)
        kind = _item(kind) if fields is None else fields.get(name)
    return kind


def _choices(kind: Any) -> list[str]:
    """The words that may stand there, if it is one of some."""
    bare = _bare(kind)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return [str(each.value) for each in bare]
    words = get_args(bare) if get_origin(bare) is Literal else ()
    return [str(each) or '""' for each in words]


@lru_cache(maxsize=1024)
def _item(kind: Any) -> Any:
    """What a list or a mapping holds, or None where that is anything."""
    bare = _bare(kind)
    arguments = get_args(bare)
    if get_origin(bare) in (list, tuple) and arguments:
        return arguments[0]
    if get_origin(bare) is dict:
        return arguments[1]
    return None
