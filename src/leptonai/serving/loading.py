"""A photon out of the file that its class is written in."""

import importlib.util
import inspect
import sys
from pathlib import Path

from leptonai.errors import InvalidRequest, NotFound
from leptonai.serving.handlers import routes
from leptonai.serving.openapi import document
from leptonai.serving.photon import Photon


def load(reference: str) -> type[Photon]:
    """The photon that ``FILE.py`` holds, or ``FILE.py:Class`` where it holds several.

    The file is run, as a program of its name would be.

    Raises:
        NotFound: there is no such file or class.
        InvalidRequest: it is not clear which class is meant, or it has a handler that cannot be
            served.
    """
    path, _, wanted = reference.partition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise NotFound(f"there is no file {path}", hint="say FILE.py, or FILE.py:Class")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{path} is not a Python file", hint="say FILE.py, or FILE.py:Class")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent))
    spec.loader.exec_module(module)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Photon)
        and value.__module__ == module.__name__
    }
    if wanted:
        if wanted not in found:
            raise NotFound(
                f"{path} holds no photon called {wanted}",
                hint=f"it holds {', '.join(found) or 'none: subclass leptonai.photon.Photon'}",
            )
        return _checked(found[wanted])
    if len(found) != 1:
        raise InvalidRequest(
            f"{path} holds {len(found) or 'no'} photon{'s' if len(found) > 1 else ''}",
            hint=f"say which: {', '.join(f'{path}:{name}' for name in found)}"
            if found
            else "subclass leptonai.photon.Photon in it",
        )
    return _checked(*found.values())


def _checked(photon: type[Photon]) -> type[Photon]:
    """Whether its handlers can be served, which is seen only where all of them are known."""
    instance = object.__new__(photon)  # nobody knows what its constructor does, or wants
    try:
        document(photon.__name__, "", routes(instance))
    except TypeError as wrong:
        raise InvalidRequest(
            str(wrong), hint="help(leptonai.photon.Photon.handler) says what a handler can take"
        ) from None
    return photon
