"""``python -m leptonai.serving.template`` loads what $LEPTON_MODEL_DIR holds, and is then copied.

It does what `leptonai.serving.model` does up to `init`, in one thread and without an event loop,
and runs nothing of the model. From there on every copy is a server of its own. In its folder,
$LEPTON_TEMPLATE_DIR, it says what has become of it: see `Told`.
"""

import contextlib
import gc
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

import msgspec

from leptonai.errors import LeptonError
from leptonai.serving.copying import Reading, renew, why_not
from leptonai.serving.launching import serve
from leptonai.serving.model import served
from leptonai.serving.packing import is_packed, read_packed, template_variables
from leptonai.serving.photon import Photon
from leptonai.supervisor.template import Template

TOLD_FILE = "told"
WITHHELD = "LEPTON_TEMPLATE_WITHHELD"  # names of variables
OF_A_REPLICA = frozenset({"LEPTON_ATTEMPT_ID", "LEPTON_REPLICA_ID", "PORT"})
# A copy that takes longer is replaced by a plain start; or half of what loading took, if that is
# more: then a plain start would be later still.
READY_WITHIN_S = 1.0

# What serving imports when it comes to it.
_LATER = (
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("uvicorn.logging", "uvicorn.protocols.websockets.auto", "uvloop", "encodings.idna"),
)


class Told(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the template says of itself. One of both."""

    memory_bytes: int = 0
    refused: str = ""


def main() -> None:
    folder = os.environ.get("LEPTON_TEMPLATE_DIR", "")
    directory = os.environ.get("LEPTON_MODEL_DIR", "")
    if not folder or not directory:
        sys.exit("error: the engine starts this\nhint: see `python -m leptonai.serving.model`")
    began = time.monotonic()
    try:
        photon = _load(Path(directory), frozenset(os.environ.get(WITHHELD, "").split()))
    except _Refused as refused:
        _tell(folder, Told(refused=str(refused)))
        return
    gc.collect()
    gc.freeze()  # or the collector of each copy would write to all of this memory
    took_s = time.monotonic() - began
    template = Template(folder, ready_within_s=max(READY_WITHIN_S, took_s / 2))
    _tell(folder, Told(memory_bytes=_memory_bytes()))
    copy = template.copy()
    for name, value in _variables(Path(directory)).items():
        os.environ.setdefault(name, value)
    renew()
    serve(photon, None, None, initialised=True, ready=copy.ready)


class _Refused(Exception):
    """It is not to be copied, and why."""


def _load(directory: Path, withheld: frozenset[str]) -> Photon:
    """
    Raises:
        _Refused: what is there.
    """
    failed = ""
    secrets, others = withheld - OF_A_REPLICA, withheld & OF_A_REPLICA
    with Reading(directory.resolve(), secrets=secrets, others=others) as reading:
        try:
            photon = served(directory, "leptonai.serving.template")
            if photon.warm_start:
                photon.init()
        except LeptonError as error:
            failed = error.message
        except Exception as error:
            traceback.print_exc()
            failed = repr(error)
    if reading.found:
        names = ", ".join(f"${name}" for name in sorted(reading.found))
        raise _Refused(f"init reads {names}, which only replicas are told; read it in warm_up")
    if failed:
        raise _Refused(f"init failed in the template: {failed}")
    for module in _LATER:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    if why := why_not(photon):
        raise _Refused(why)
    return photon


def _variables(directory: Path) -> dict[str, str]:
    if not is_packed(directory):
        return {}
    return template_variables(read_packed(directory).deployment_template)


def _memory_bytes() -> int:
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE")


def _tell(folder: str, told: Told) -> None:
    draft = Path(folder) / f"{TOLD_FILE}.draft"
    draft.write_bytes(msgspec.json.encode(told))
    draft.rename(Path(folder) / TOLD_FILE)


if __name__ == "__main__":
    main()
