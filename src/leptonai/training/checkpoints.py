"""Checkpoints on disk: one directory each, whole or not there, verified before it is used.

::

    step-000000120/
        checkpoint.json          what it is, and the SHA-256 of every file: written last
        rank-00000.safetensors   tensors, or this rank's parts of them
        …

It is written beside and renamed, so a kill at any point leaves the one before. Parts of a tensor
say where they belong in the whole, so another number of ranks reads just what it needs. Nothing in
it is code: torch's own checkpoints keep their index as a pickle.
"""

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leptonai.durable import DISK_FULL, replacing, sync
from leptonai.errors import InvalidRequest, NotFound, StorageFull, Unavailable
from leptonai.training.direct import DirectFile

FORMAT, VERSION = "lepton-checkpoint", 1
INDEX = "checkpoint.json"
OTHERS_S = 600.0  # for the other ranks to have written their parts
ASK_EVERY_S = 0.05
MAX_INDEX_BYTES = 256 << 20

_NAME = re.compile(r"step-(\d{9,})")
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Part(NamedTuple):
    """Of a tensor: all of it, or the block that one rank holds."""

    tensor: Tensor  # on the CPU, contiguous
    at: tuple[int, ...]  # of its first element in the whole
    whole: tuple[int, ...]  # the shape of the whole

    @classmethod
    def all_of(cls, tensor: Tensor) -> "Part":
        return cls(tensor, (0,) * tensor.ndim, tuple(tensor.shape))


@dataclass(frozen=True)
class Snapshot:
    """All that one rank has to say of one step. Nothing of it changes any more: another thread
    writes it down."""

    step: int
    facts: Mapping[str, Any]  # JSON; those of rank 0 are kept
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    path: Path
    step: int
    facts: Mapping[str, Any]
    _places: Mapping[str, tuple["_Place", ...]] = field(repr=False)

    def names(self) -> frozenset[str]:
        return frozenset(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name][0].whole

    def read(
        self, name: str, at: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> Tensor:
        """A tensor, or a block of it, put together from whichever parts hold it.

        Raises:
            KeyError: there is no such tensor.
            InvalidRequest: the parts do not cover it.
        """
        places = self._places[name]
        whole = places[0].whole
        start = tuple(at) if at is not None else (0,) * len(whole)
        size = tuple(shape) if shape is not None else whole
        if len(places) == 1 and size == whole:
            return places[0].read()
        out: Tensor | None = None
        filled = 0
        for place in places:
            common = _common(start, size, place.at, place.shape)
            if common is None:
                continue
            block = place.read(_slices(common, place.at))
            out = torch.empty(size, dtype=block.dtype) if out is None else out
            out[_slices(common, start)] = block
            filled += block.numel()
        if out is None or filled != out.numel():
            raise InvalidRequest(
                f"{self.path.name} holds only a part of {name}", hint="use another checkpoint"
            )
        return out


class _Place(NamedTuple):
    file: Path
    name: str
    at: tuple[int, ...]
    shape: tuple[int, ...]
    whole: tuple[int, ...]

    def read(self, block: tuple[slice, ...] = ()) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            found: Tensor = (
                opened.get_slice(self.name)[block] if block else opened.get_tensor(self.name)
            )
        return found


_Bounds = list[tuple[int, int]]  # of each axis: from, to


def _common(
    at: Sequence[int], shape: Sequence[int], other_at: Sequence[int], other: Sequence[int]
) -> _Bounds | None:
    """Where two blocks meet."""
    bounds = [
        (max(a, b), min(a + n, b + m))
        for a, n, b, m in zip(at, shape, other_at, other, strict=True)
    ]
    return bounds if all(low < high for low, high in bounds) else None


def _slices(bounds: _Bounds, at: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(low - start, high - start) for (low, high), start in zip(bounds, at, strict=True)
    )


# --- reading -------------------------------------------------------------------------------------


def steps_in(root: Path) -> list[int]:
    """Of the checkpoints there, ascending; whether they are whole is not looked at."""
    if not root.is_dir():
        return []
    found = (_NAME.fullmatch(each.name) for each in root.iterdir())
    return sorted(int(each[1]) for each in found if each)


def newest(root: Path, tell: Callable[[str], None]) -> Saved | None:
    """The newest that is whole; what is torn is told and passed over."""
    for step in reversed(steps_in(root)):
        try:
            return open_checkpoint(root / name_of(step))
        except InvalidRequest as torn:
            tell(f"{torn.message}: going back to the checkpoint before it")
    return None


def open_checkpoint(path: Path) -> Saved:
    """Reads every byte once, to compare checksums.

    Raises:
        NotFound: there is none.
        InvalidRequest: it is torn, or of another format.
    """
    index = _read_index(path)
    places: dict[str, dict[object, _Place]] = {}  # a block that two ranks hold counts once
    for name, told in index["files"].items():
        file = path / name
        if "/" in name or not file.is_file():
            raise InvalidRequest(f"the checkpoint {path} lacks {name}", hint="use the one before")
        if _hashed(file) != told["sha256"]:
            raise InvalidRequest(
                f"the checkpoint {path} is damaged: {name} is not as it was written",
                hint="use the one before",
            )
        for tensor, place in _places_in(file).items():
            places.setdefault(tensor, {}).setdefault((place.at, place.shape), place)
    return Saved(
        path,
        index["step"],
        index["facts"],
        {name: tuple(blocks.values()) for name, blocks in places.items()},
    )


def facts_at(root: Path, step: int) -> Mapping[str, Any]:
    """Of a checkpoint whose tensors nobody looks at; none, if it cannot be read."""
    try:
        facts: Mapping[str, Any] = _read_index(root / name_of(step))["facts"]
    except (InvalidRequest, NotFound):
        return {}
    return facts


def _read_index(path: Path) -> Any:
    try:
        with (path / INDEX).open("rb") as file:
            index = json.loads(file.read(MAX_INDEX_BYTES))
        if index["format"] != FORMAT or index["version"] != VERSION:
            raise InvalidRequest(
                f"{path} is a checkpoint of {index['format']} {index['version']}; this reads "
                f"{FORMAT} {VERSION}",
                hint="load it with the version of Lepton that saved it",
            )
        return {"step": int(index["step"]), "facts": index["facts"], "files": index["files"]}
    except FileNotFoundError:
        raise NotFound(f"there is no checkpoint at {path}", hint="check the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"the checkpoint {path} is damaged: {error!r}", hint="use the one before"
        ) from None


def _places_in(file: Path) -> dict[str, _Place]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            blocks = json.loads((opened.metadata() or {}).get("blocks", "{}"))
            found = {}
            for name in opened.keys():  # noqa: SIM118
                shape = tuple(opened.get_slice(name).get_shape())
                at, whole = blocks.get(name, ((0,) * len(shape), shape))
                found[name] = _Place(file, name, tuple(at), shape, tuple(whole))
            return found
    except (SafetensorError, ValueError, TypeError) as error:
        raise InvalidRequest(f"{file} is damaged: {error}", hint="use the one before") from None


def _hashed(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def name_of(step: int) -> str:
    return f"step-{step:09}"


# --- writing -------------------------------------------------------------------------------------


class Writer:
    """Writes one checkpoint at a time, in a thread; every rank has one.

    Ranks meet through the directory alone, so nothing waits for the network: each writes its file
    and says so in a small one beside it, and rank 0 completes the checkpoint when all have.
    """

    def __init__(
        self,
        root: Path,
        *,
        rank: int,
        writers: int,
        attempt: str,
        before: Callable[[], None] = lambda: None,
        after: Callable[[int], None] = lambda step: None,
    ) -> None:
        """
        Args:
            writers: how many ranks write; those from this number on have nothing to say.
            attempt: the same on all ranks, and never used before: what a killed attempt left
                cannot be taken for ours.
            before: is called on rank 0 when all but the last step has been done.
            after: is called on rank 0, with the step, when a checkpoint is there.
        """
        self._root = root
        self._rank = rank
        self._writers = writers
        self._attempt = attempt
        self._before = before
        self._after = after
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        if rank == 0:
            with _acting(root):
                root.mkdir(parents=True, exist_ok=True)
                for left in root.glob(".step-*"):
                    shutil.rmtree(left, ignore_errors=True)

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, snapshot: Snapshot) -> None:
        """Returns at once; waits first for the one that is being written."""
        self.wait()
        if self._rank < self._writers:
            self._thread = threading.Thread(
                target=self._run, args=(snapshot,), name="leptonai-checkpoint", daemon=True
            )
            self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            StorageFull, Unavailable: the last one could not be written; the one before is there.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, snapshot: Snapshot) -> None:
        beside = self._root / f".{name_of(snapshot.step)}.{self._attempt}"
        try:
            with _acting(self._root):
                self._write(snapshot, beside)
        except Exception as failure:
            self._failure = failure
            if self._rank == 0:
                shutil.rmtree(beside, ignore_errors=True)

    def _write(self, snapshot: Snapshot, beside: Path) -> None:
        beside.mkdir(parents=True, exist_ok=True)
        mine = f"rank-{self._rank:05}.safetensors"
        digest = write_safetensors(beside / mine, snapshot.parts)
        if self._rank:
            said = beside / f".{mine}"
            said.write_text(digest)
            said.rename(beside / f"{mine}.sha256")
            return
        files = {mine: {"sha256": digest}} | self._others(beside)
        index = {
            "format": FORMAT,
            "version": VERSION,
            "step": snapshot.step,
            "facts": dict(snapshot.facts),
            "files": files,
        }
        with replacing(beside / INDEX) as file:
            file.write_text(json.dumps(index, separators=(",", ":")))
        self._before()
        target = self._root / name_of(snapshot.step)
        if target.exists():  # torn, or of the same step: ours is as good and whole
            discard(target)
        beside.rename(target)
        sync(self._root)
        self._after(snapshot.step)

    def _others(self, beside: Path) -> dict[str, dict[str, str]]:
        deadline = time.monotonic() + OTHERS_S
        found: dict[str, dict[str, str]] = {}
        for rank in range(1, self._writers):
            name = f"rank-{rank:05}.safetensors"
            said = beside / f"{name}.sha256"
            while not said.exists():
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"worker {rank} did not write its part of {beside.name} to {self._root}",
                        hint="all workers must reach the same directory of checkpoints",
                    )
                time.sleep(ASK_EVERY_S)
            found[name] = {"sha256": said.read_text()}
            said.unlink()
        return found


def discard(checkpoint: Path) -> None:
    """It is gone at once, whatever happens meanwhile."""
    doomed = checkpoint.with_name(f".{checkpoint.name}.{time.time_ns()}.removed")
    with suppress(FileNotFoundError):
        checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def write_safetensors(path: Path, parts: Mapping[str, Part]) -> str:
    """In one pass, without a copy in memory; it is on the disk when this returns its SHA-256."""
    header: dict[str, Any] = {}
    blocks = {}
    at = 0
    for name, part in parts.items():
        size = part.tensor.numel() * part.tensor.element_size()
        header[name] = {
            "dtype": _TYPES[part.tensor.dtype],
            "shape": list(part.tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
        if tuple(part.tensor.shape) != part.whole:
            blocks[name] = [part.at, part.whole]
    header["__metadata__"] = {"blocks": json.dumps(blocks, separators=(",", ":"))}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with DirectFile(path) as file:
        file.write(memoryview(len(head).to_bytes(8, "little") + head))
        for part in parts.values():
            file.write(_bytes_of(part.tensor))
        return file.finish()


def _bytes_of(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def _acting(root: Path) -> Iterator[None]:
    """Turns what the system says into what a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull(
                f"the disk of {root} is full: no checkpoint was written, the one before is there",
                hint="free space, or keep fewer",
            ) from error
        raise Unavailable(
            f"{root} cannot be written to: {error.strerror}", hint="see who owns it"
        ) from error
