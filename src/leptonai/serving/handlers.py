"""Handlers: how a method's signature becomes the checks on a request, compiled once."""

import copy
import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.serving.arrays import ARRAY, as_array, dtype_of, is_array
from leptonai.serving.files import File, FileParam
from leptonai.serving.formats import decoded, format_of

Method = Literal["GET", "POST"]
Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")

_OF_A_BATCH = "one of each call of a batch"
Batch = Annotated[list[Item], _OF_A_BATCH]  # what a batched handler takes where each call gives one

_DECLARATION = "__photon_handler__"
_MAX_QUERY_FIELDS = 1_000
_JSON = (b"application/json", b"")
_COLLECTIONS = (list, tuple, set, frozenset)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the decorator was told."""

    path: str | None = None
    method: Method = "POST"
    example: Any = None
    raw: bool = False
    max_batch_size: int | None = None
    max_wait_s: float = 0.0
    mount: bool = False
    takes_request: bool = False  # use_raw_args
    cancel_on_disconnect: bool = False


def declare(function: Function, declaration: Declaration) -> Function:
    if declaration.method not in ("GET", "POST"):
        raise ValueError(
            f"the handler {function.__name__} asks for method={declaration.method!r}; "
            'it can be "GET" or "POST"'
        )
    if declaration.raw and declaration.method == "GET":
        raise ValueError(f"the handler {function.__name__} wants the body of a GET, which has none")
    size = declaration.max_batch_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(
            f"the handler {function.__name__} asks for max_batch_size={size!r}; it is a number "
            "from 1 on"
        )
    if declaration.max_wait_s < 0 or (declaration.max_wait_s and size is None):
        raise ValueError(
            f"the handler {function.__name__} has a max_wait_time of {declaration.max_wait_s}; it "
            "goes with max_batch_size, and is not negative"
        )
    alone = [declaration.mount, declaration.takes_request, declaration.raw, size is not None]
    if sum(alone) > 1 and not (declaration.raw and size is not None and sum(alone) == 2):
        raise ValueError(
            f"the handler {function.__name__} asks for more than one of mount, use_raw_args, raw "
            "and max_batch_size"
        )
    setattr(function, _DECLARATION, declaration)
    return function


def declarations(photon: type) -> dict[str, Declaration]:
    """The handlers of a class by method name, inherited ones first; the nearest wins."""
    found: dict[str, Declaration] = {}
    for cls in reversed(photon.__mro__):
        for name, value in vars(cls).items():
            declaration = getattr(value, _DECLARATION, None)
            if isinstance(declaration, Declaration):
                found.pop(name, None)
                found[name] = declaration
            elif value is None:
                found.pop(name, None)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A handler bound to its photon, ready to answer."""

    method: Method
    path: str  # starts with "/"
    pattern: re.Pattern[str] | None  # of a path with {parts}
    call: Callable[..., Any]
    is_async: bool
    is_direct: bool  # nothing is to be done around the call
    is_taskless: bool  # who calls waits for one result that is not made on the event loop
    input_type: type[msgspec.Struct]
    path_fields: tuple[str, ...]
    returns: Any  # the annotation of the result; Any without one
    example: Any
    schema_name: str  # Counter_addPost
    description: str
    decode: Callable[[bytes], msgspec.Struct]
    collections: frozenset[str]  # fields that take each value of a repeated query field
    arrays: dict[str, str | None]  # fields that are arrays, of which type of numbers, if it is said
    more: Any  # the type of fields of any other name; None where there are none
    declared: Declaration

    @property
    def raw(self) -> bool:
        """Its one argument is the body, as bytes."""
        return self.declared.raw

    def arguments(
        self, body: bytes, query: bytes, parts: Mapping[str, str], content_type: bytes = b""
    ) -> dict[str, Any]:
        """The keyword arguments for `call`.

        Raises:
            InvalidRequest: with the name of the field that is wrong.
        """
        if self.declared.raw:
            return {self.input_type.__struct_fields__[0]: body}
        format = None if content_type in _JSON else format_of(content_type)
        typed = self.method == "POST" and not parts  # else numbers come as texts
        more: dict[str, Any] = {}
        try:
            if typed and format is None and self.more is None:
                given = self.decode(body or b"{}")
            else:
                fields = (
                    self._loose(body, query)
                    if format is None
                    else decoded(body, format, self.input_type.__struct_fields__)
                )
                fields.update(parts)
                convert = functools.partial(
                    msgspec.convert, strict=typed or format is not None, dec_hook=_from_wire
                )
                if self.more is not None:
                    more = self._taken_out(fields, convert)
                given = convert(fields, self.input_type)
        except msgspec.ValidationError as error:
            raise InvalidRequest(_name_the_field(str(error))) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from None
        arguments = msgspec.structs.asdict(given)
        for name, dtype in self.arrays.items():
            arguments[name] = as_array(arguments[name], dtype, name)
        return arguments | more

    def _loose(self, body: bytes, query: bytes) -> dict[str, Any]:
        if self.method == "POST":
            return msgspec.json.decode(body or b"{}", type=dict[str, Any])
        text = query.decode("utf-8", "replace")
        many = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
        return {
            name: values if name in self.collections else values[-1]
            for name, values in many.items()
        }

    def _taken_out(
        self, fields: dict[str, Any], convert: Callable[[Any, Any], Any]
    ) -> dict[str, Any]:
        """Those that no argument is named after."""
        more = {}
        for name in fields.keys() - set(self.input_type.__struct_fields__):
            if name == "self":
                raise InvalidRequest("self: an argument cannot be called so")
            try:
                more[name] = convert(fields.pop(name), self.more)
            except msgspec.ValidationError as error:
                raise InvalidRequest(_name_the_field(str(error), name)) from None
        return more


def routes(photon: object) -> list[Route]:
    """One for each handler. The nearest class wins a path that two classes want."""
    cls = type(photon)
    by_address: dict[tuple[str, str], Route] = {}
    owner_of: dict[tuple[str, str], tuple[type, str]] = {}
    for name, declaration in declarations(cls).items():
        if declaration.mount:
            continue
        route = _route(photon, name, declaration)
        address = (route.method, route.path)
        owner = next(c for c in cls.__mro__ if name in vars(c))
        if address in owner_of:
            other, other_name = owner_of[address]
            if other is owner:
                raise TypeError(
                    f"{cls.__name__}: {other_name} and {name} both answer "
                    f"{route.method} {route.path}; give one of them another path"
                )
            if not issubclass(owner, other):
                continue
        by_address[address] = route
        owner_of[address] = owner, name
    return list(by_address.values())


def mounts(photon: object) -> dict[str, Callable[[], Any]]:
    """What makes the applications that are served under a path, by that path."""
    return {
        "/" + (name if declaration.path is None else declaration.path).strip("/"): getattr(
            photon, name
        )
        for name, declaration in declarations(type(photon)).items()
        if declaration.mount
    }


def _route(photon: object, name: str, declaration: Declaration) -> Route:
    cls = type(photon)
    method = declaration.method
    path = "/" + (name if declaration.path is None else declaration.path).strip("/")
    call = getattr(photon, name)
    schema_name = re.sub(r"\W", "_", f"{cls.__name__}_{path[1:]}") + method.capitalize()
    hints = _hints(cls, call)
    if declaration.max_batch_size is not None:
        hints = {name: _of_one_call(hint) for name, hint in hints.items()}
    arrays = {name: dtype_of(hint) for name, hint in hints.items() if is_array(hint)}
    arrays.pop("return", None)
    wire = {**hints, **dict.fromkeys(arrays, ARRAY)}
    fields = [] if declaration.takes_request else list(_fields(cls, call, wire))
    parameters = inspect.signature(call).parameters.values()
    further = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), None)
    more = None if further is None else hints.get(further, Any)
    if more is not None and declaration.max_batch_size is not None:
        _refuse(cls, call, "a batch has the same arguments for each call, so name them")
    try:
        input_type = msgspec.defstruct(
            schema_name + "Input", fields, kw_only=True, forbid_unknown_fields=more is None
        )
        decode = msgspec.json.Decoder(input_type, dec_hook=_from_wire).decode
    except TypeError as error:
        _refuse(cls, call, str(error))
    if declaration.raw and [field[1] for field in fields] != [bytes]:
        _refuse(cls, call, "with raw=True it takes one argument, which is bytes")
    path_fields = tuple(re.findall(r"\{(\w+)\}", path))
    unknown = sorted(set(path_fields) - set(input_type.__struct_fields__))
    if unknown:
        _refuse(cls, call, f"its path names {unknown}, which it does not take")
    is_async = inspect.iscoroutinefunction(call)
    streams = inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)
    is_batched = declaration.max_batch_size is not None
    special = declaration.takes_request or declaration.cancel_on_disconnect
    return Route(
        method=method,
        path=path,
        pattern=_pattern(path) if path_fields else None,
        call=call,
        is_async=is_async,
        is_direct=is_async and not is_batched and not declaration.cancel_on_disconnect,
        is_taskless=(is_batched or not is_async) and not streams and not special,
        input_type=input_type,
        path_fields=path_fields,
        returns=hints.get("return", Any),
        example=declaration.example,
        schema_name=schema_name,
        description=inspect.getdoc(call) or "",
        decode=decode,
        collections=frozenset(
            field for field, hint, *_ in fields if (get_origin(hint) or hint) in _COLLECTIONS
        ),
        arrays=arrays,
        more=more,
        declared=declaration,
    )


def _of_one_call(hint: Any) -> Any:
    """``Batch[int]`` is an int on the wire; any other annotation is that of one call already."""
    if get_origin(hint) is Annotated and _OF_A_BATCH in hint.__metadata__:
        (hint,) = get_args(get_args(hint)[0])
    if isinstance(hint, UnionType):  # a result, or what fails that call alone
        kinds = [kind for kind in get_args(hint) if kind is not Exception]
        hint = functools.reduce(operator.or_, kinds)
    return hint


def _from_wire(kind: type, value: Any) -> Any:
    if issubclass(kind, File | FileParam):
        return kind.from_wire(value)
    raise NotImplementedError


def _hints(cls: type, call: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(call, include_extras=True)
    except NameError as error:
        _refuse(cls, call, f"an annotation cannot be resolved: {error}")


def _fields(
    cls: type, call: Callable[..., Any], hints: Mapping[str, Any]
) -> Iterator[tuple[str, Any] | tuple[str, Any, Any]]:
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            _refuse(cls, call, f"{parameter} has no name that a request could use")
        hint = hints.get(parameter.name, Any)
        if parameter.default is parameter.empty:
            yield parameter.name, hint
        elif isinstance(parameter.default, list | dict | set | bytearray):
            yield parameter.name, hint, msgspec.field(default_factory=_copies(parameter.default))
        else:
            yield parameter.name, hint, parameter.default


def _copies(value: Any) -> Callable[[], Any]:
    return lambda: copy.deepcopy(value)


def _pattern(path: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", path)  # literal, name, literal, …
    return re.compile(
        "".join(
            f"(?P<{piece}>[^/]+)" if index % 2 else re.escape(piece)
            for index, piece in enumerate(pieces)
        )
    )


def _refuse(cls: type, call: Callable[..., Any], reason: str) -> NoReturn:
    raise TypeError(f"the handler {cls.__name__}.{call.__name__} cannot be served: {reason}")


def _name_the_field(message: str, root: str = "") -> str:
    """``Expected `int`, got `str` - at `$.x[0]` `` as ``x[0]: expected `int`, got `str` ``."""
    what, _, where = message.partition(" - at ")
    field = f"{root}{where.strip('`').removeprefix('$')}".removeprefix(".")
    if not field:
        return what
    return f"{field}: {what[0].lower()}{what[1:]}"
