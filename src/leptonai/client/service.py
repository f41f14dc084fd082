"""A service as an object: `Client` makes a method of each path in its OpenAPI document."""

import contextlib
import keyword
import os
from collections.abc import Iterator, Mapping
from typing import Any

try:
    import httpx
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "Client needs httpx: pip install 'openlepton[async]'", name="httpx"
    ) from missing

from leptonai.client.connection import DEFAULT_WORKSPACE, checked_token
from leptonai.errors import InvalidRequest, NotFound, Unavailable

PHOTON_PORT = 8080

_SAYS = ("error", "message", "detail")  # photons, our gateway, FastAPI
_METHODS = ("post", "get")  # the first that a path has is what calling it does


def local(port: int = PHOTON_PORT) -> str:
    """The URL of a photon that runs on this machine."""
    return f"http://localhost:{port}"


def current() -> str:
    """The workspace that is meant unless another is named."""
    return os.environ.get("LEPTON_WORKSPACE_ID") or DEFAULT_WORKSPACE


class Client:
    """Calls a photon, or any other service that describes itself by OpenAPI::

        client = Client("http://127.0.0.1:8080")
        client.add(x=1)             # POST /add {"x": 1}
        client.points.mirror(…)     # POST /points/mirror
        client()                    # POST /, or GET /

    Paths with ``{parts}`` have no method. ``client.add.get(…)`` is the GET of a path that has both.

    Args:
        url_or_workspace: of the service; a path in it is kept. Or a workspace, with `deployment`.
        deployment: the endpoint's name in this workspace.
        token: its bearer's; of an endpoint in a workspace, that of the workspace unless given.
        stream: answers that are no JSON come as a generator of bytes, as they arrive.
        chunk_size: of what the generator gives, in bytes; as it comes, unless given.
        timeout: seconds to wait for anything; models take their time, so none unless given.

    Raises:
        Unavailable: nobody answers there.
        NotFound: the workspace has no such endpoint.
    """

    def __init__(
        self,
        url_or_workspace: str,
        deployment: str | None = None,
        token: str | None = None,
        stream: bool | None = None,
        chunk_size: int | None = None,
        timeout: float | None = None,
    ) -> None:
        if url_or_workspace.startswith(("http://", "https://")):
            self.url = url_or_workspace.rstrip("/")
        else:
            self.url, token = _endpoint(url_or_workspace, deployment, token)
        self._stream = bool(stream)
        self._chunk_size = chunk_size
        headers = {} if token is None else {"authorization": f"Bearer {checked_token(token)}"}
        self._http = httpx.Client(headers=headers, timeout=timeout)
        self.openapi: dict[str, Any] = self._document()
        self._paths = _Paths("")
        for path, operations in self.openapi.get("paths", {}).items():
            if isinstance(operations, dict):
                self._add(path, operations)

    def paths(self) -> list[str]:
        """All that the service describes."""
        return [*self.openapi.get("paths", {})]

    def healthz(self) -> bool:
        """Whether it says that it is well; some services do not say."""
        for path in ("/healthz", "/health"):
            with contextlib.suppress(httpx.HTTPError):
                if not self._http.get(self.url + path).is_error:
                    return True
        return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, **arguments: Any) -> Any:
        return self._paths(**arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._paths, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._paths)})

    def _document(self) -> dict[str, Any]:
        try:
            answer = self._http.get(f"{self.url}/openapi.json")
        except httpx.TransportError as error:
            raise Unavailable(
                f"{self.url} does not answer: {error}", hint="is the address right, and is it up?"
            ) from error
        if answer.status_code in (404, 429):
            return {}  # it has none, or no time: whoever knows its paths has no use for a failure
        _check(answer)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InvalidRequest(
                f"{self.url}/openapi.json is no OpenAPI document",
                hint="is this the URL of the service itself?",
            )
        return found

    def _add(self, path: str, operations: Mapping[str, Any]) -> None:
        parts = [part.replace("-", "_").replace(".", "_") for part in path.split("/") if part]
        names = [f"{part}_" if keyword.iskeyword(part) else part for part in parts]
        if not all(name.isidentifier() for name in names):
            return
        at = self._paths
        for name in names:
            at = at.below.setdefault(name, _Paths(path))
        for method in _METHODS:
            if method in operations:
                at.calls[method] = _Call(self, method, path, operations[method])

    def _ask(self, method: str, path: str, arguments: dict[str, Any]) -> Any:
        url = self.url + path
        request = (
            self._http.build_request("GET", url, params=arguments)
            if method == "get"
            else self._http.build_request(
                "POST",
                url,
                content=_json(arguments),
                headers={"content-type": "application/json"},
            )
        )
        answer = self._http.send(request, stream=self._stream)
        if self._stream and not answer.is_error and not _is_json(answer):
            return self._arriving(answer)
        try:
            answer.read()
        finally:
            answer.close()
        _check(answer)
        return answer.json() if _is_json(answer) and answer.content else answer.content

    def _arriving(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_bytes(self._chunk_size)
        finally:
            answer.close()


class _Paths:
    """A path, and those below it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls: dict[str, _Call] = {}
        self.below: dict[str, _Paths] = {}

    def __call__(self, *nameless: Any, **arguments: Any) -> Any:
        if nameless:
            raise TypeError(f"{self.path or '/'} takes arguments by name: (x=1), not (1)")
        for method in _METHODS:
            if method in self.calls:
                return self.calls[method](**arguments)
        raise AttributeError(f"the service has nothing at {self.path or '/'}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self.below.get(name) or self.calls.get(name)
        if found is None:
            known = ", ".join(sorted(self.below)) or "no paths"
            raise AttributeError(f"the service has no {name} here; it has {known}")
        return found

    def __dir__(self) -> list[str]:
        return sorted({*self.below, *self.calls})

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return next((call.__doc__ for call in self.calls.values()), None)


class _Call:
    """One operation."""

    def __init__(
        self, client: Client, method: str, path: str, operation: Mapping[str, Any]
    ) -> None:
        self._client = client
        self._method = method
        self._path = path
        self.__doc__ = f"{method.upper()} {path}\n\n{operation.get('description') or ''}".strip()

    def __call__(self, **arguments: Any) -> Any:
        return self._client._ask(self._method, self._path, arguments)


def _endpoint(workspace: str, name: str | None, token: str | None) -> tuple[str, str | None]:
    from leptonai.client.synchronous import LeptonClient

    if name is None:
        raise InvalidRequest(
            f"which endpoint of the workspace {workspace} is meant?",
            hint='say Client(workspace, "NAME"), or Client(URL)',
        )
    with LeptonClient(workspace=workspace) as client:
        found = client.endpoints.get(name)
        url = found.status.endpoint.external_endpoint if found.status else ""
        if not url:
            raise NotFound(
                f"the endpoint {name} has no address yet", hint=f"see endpoint why {name}"
            )
        return url.rstrip("/"), token or client.connection.token


def _json(arguments: dict[str, Any]) -> bytes:
    """Arrays as lists, files as objects, and what msgspec knows as it has it."""
    import msgspec

    def plain(value: Any) -> Any:
        for name in ("to_wire", "tolist", "model_dump"):
            if hasattr(value, name):
                return getattr(value, name)()
        raise TypeError(f"a {type(value).__name__} cannot be sent as JSON")

    return msgspec.json.encode(arguments, enc_hook=plain)


def _is_json(answer: httpx.Response) -> bool:
    media_type: str = answer.headers.get("content-type", "")
    return media_type.partition(";")[0] == "application/json"


def _check(answer: httpx.Response) -> None:
    """
    Raises:
        httpx.HTTPStatusError: with what the service says of the error.
    """
    if not answer.is_error:
        return
    try:
        told = answer.json()
        said = next(told[name] for name in _SAYS if name in told)
    except (ValueError, TypeError, StopIteration):
        said = answer.text
    raise httpx.HTTPStatusError(
        f"{answer.status_code} for {answer.request.url}: {said}",
        request=answer.request,
        response=answer,
    )
