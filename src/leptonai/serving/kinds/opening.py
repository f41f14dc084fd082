"""From a directory to a model that answers raw inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import Read
from leptonai.serving.kinds.recognising import Found

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leptonai.data.pipeline import Pipeline
    from leptonai.training.models.signature import Signature

PIPELINE_FILE = "pipeline.safetensors"

_MODULES = {
    "keras": "leptonai.serving.kinds.keras",
    "lepton": "leptonai.serving.kinds.lepton",
    "onnx": "leptonai.serving.kinds.onnx",
    "scikit-learn": "leptonai.serving.kinds.scikit",
    "transformers": "leptonai.serving.kinds.transformers",
}


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is loaded, of which nothing has run yet. Shape letters: B inputs, K classes."""

    signature: "Signature"
    read: Read
    predict: "Callable[[Any], NDArray[Any]]"  # of what was read: [B, K] shares, [B, …] values
    warm_up: Callable[[], object] = _nothing  # a first pass, which is slow


def open_model(found: Found, directory: Path) -> Opened:
    """
    Raises:
        InvalidRequest: it cannot be loaded, is not served without code, or needs what is not
            installed.
    """
    opened: Opened = import_module(_MODULES[found.kind]).open_model(directory, found.file)
    return opened


def pipeline_in(directory: Path) -> "Pipeline | None":
    if not (directory / PIPELINE_FILE).exists():
        return None
    from leptonai.data.pipeline import Pipeline

    return Pipeline.load(directory / PIPELINE_FILE)


def not_installed(library: str, extra: str, directory: Path) -> NoReturn:
    raise InvalidRequest(
        f"the model in {directory} needs {library}, which is not installed",
        hint=f"where it is served: pip install 'openlepton[{extra}]'",
    )
