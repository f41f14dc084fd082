"""A photon as a directory: its source, and what is known of it without running that. No pickles."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from leptonai.errors import InvalidRequest, LeptonError
from leptonai.serving.environment import python_with
from leptonai.serving.loading import load
from leptonai.serving.photon import Photon
from leptonai.spec.photons import METADATA_FILE, Packed

_REQUIRED = "PLEASE_ENTER_YOUR_ENV"  # in a template, instead of a value
_PREPARED = "LEPTON_PHOTON_PREPARED"  # set where its environment is the current one


def pack(reference: str, directory: Path, name: str) -> Packed:
    """Lay the photon of ``FILE.py[:Class]`` down in an empty or missing directory.

    Its file is run, to learn what its class asks for.

    Raises:
        NotFound: there is no such file or class.
        InvalidRequest: its file fails, or what it asks for cannot be packed.
    """
    photon = _loaded(reference)
    file = Path(reference.partition(":")[0]).resolve()
    extra_files = [_relative(each, file.parent) for each in photon.extra_files]
    packed = Packed(
        name=name,
        file=file.name,
        photon=photon.__name__,
        requirement_dependency=_lines(photon, "requirement_dependency"),
        system_dependency=_lines(photon, "system_dependency"),
        deployment_template=_plain(photon.deployment_template),
        extra_files=extra_files,
    )
    directory.mkdir(parents=True, exist_ok=True)
    for each in (file.name, *extra_files):
        there = directory / each
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.parent / each, there)
    (directory / METADATA_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(packed)))
    return packed


def _loaded(reference: str) -> type[Photon]:
    path = reference.partition(":")[0]
    try:
        return load(reference)
    except LeptonError:
        raise
    except SyntaxError as wrong:
        raise InvalidRequest(
            f"{path} cannot be read: {wrong.msg}, line {wrong.lineno} of {wrong.filename}",
            hint="correct that line",
        ) from wrong
    except Exception as wrong:  # whatever its author's program may raise
        raise InvalidRequest(
            f"{path} fails when it is run: {type(wrong).__name__}: {wrong}",
            hint=f"the file is run to see what it holds; `python {path}` shows where it fails",
        ) from wrong


def is_packed(directory: Path) -> bool:
    return (directory / METADATA_FILE).is_file()


def read_packed(directory: Path) -> Packed:
    """
    Raises:
        InvalidRequest: there is none, or it is damaged.
    """
    try:
        packed = msgspec.json.decode((directory / METADATA_FILE).read_bytes(), type=Packed)
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(
            f"{directory} holds no photon: {error}", hint="make one: leptonai photon create"
        ) from None
    _relative(packed.file, directory)
    return packed


def serve_packed(directory: Path, host: str | None = None, port: int | None = None) -> None:
    """Serve it until SIGTERM, in an environment that has what it requires."""
    given = {"LEPTON_BIND": host, "PORT": None if port is None else str(port)}
    os.environ.update({name: value for name, value in given.items() if value is not None})
    os.environ["LEPTON_MODEL_DIR"] = str(directory)
    unpacked(directory, "leptonai.serving.model").launch()


def unpacked(directory: Path, program: str) -> Photon:
    """The photon that is packed there, not yet initialised.

    Where it requires packages, this process becomes `program`, with the interpreter of an
    environment that has them.
    """
    packed = read_packed(directory)
    if packed.requirement_dependency and _PREPARED not in os.environ:
        python = python_with(packed.requirement_dependency)
        sys.stdout.flush()
        environ = {**os.environ, _PREPARED: "1"}
        os.execve(python, [str(python), "-m", program], environ)  # noqa: S606  # no shell
    for name, value in template_variables(packed.deployment_template).items():
        os.environ.setdefault(name, value)
    return load(f"{directory / packed.file}:{packed.photon}")()


def template_variables(template: Mapping[str, Any]) -> dict[str, str]:
    """Those of a deployment template that have a value of their own."""
    found = template.get("env") or {}
    return {name: str(value) for name, value in found.items() if value != _REQUIRED}


def required_variables(template: Mapping[str, Any]) -> list[str]:
    """Those that whoever deploys it is to give."""
    return [name for name, value in (template.get("env") or {}).items() if value == _REQUIRED]


def _lines(photon: type[Photon], attribute: str) -> list[str]:
    found: Sequence[Any] | None = getattr(photon, attribute)
    if isinstance(found, str) or not all(isinstance(line, str) for line in found or ()):
        raise InvalidRequest(
            f"{photon.__name__}.{attribute} is no list of texts", hint='for example ["numpy>=2"]'
        )
    return [line.strip() for line in found or () if line.strip()]


def _relative(path: str, folder: Path) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not (folder / pure).is_file():
        raise InvalidRequest(
            f"{path} is not a file beside the photon", hint="name files relative to its own"
        )
    if pure.name == METADATA_FILE:
        raise InvalidRequest(f"{METADATA_FILE} is the name of what Lepton itself writes")
    return str(pure)


def _plain(template: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(msgspec.json.encode(dict(template)))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"deployment_template cannot be written down: {error}",
            hint='{"resource_shape": …, "env": {…}, "secret": […]}',
        ) from None
    assert isinstance(found, dict)
    return found
