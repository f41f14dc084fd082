"""``python -m leptonai.serving.model`` serves the model in $LEPTON_MODEL_DIR without code.

::

    POST /predict {"inputs": [image, …]} -> {"labels": ["3", …], "probabilities": [[0.01, …], …]}

Inputs are raw images, nested lists [H, W, C] of pixels as they were trained on; where the model
takes one channel, [H, W] will do. The model normalises them itself.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.serving.photon import HTTPException, Photon

if TYPE_CHECKING:
    from torch import Tensor

MAX_BATCH = 1_024  # inputs of one request


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One of each an input, in the order of the inputs."""

    labels: list[str]
    probabilities: list[list[float]]  # of the classes, in the order of the model's config


@runtime_checkable
class ClassifiesFixedShapes(Protocol):
    """What can be served without code: arrays of one shape in, one of named classes out."""

    input_shape: tuple[int, ...]
    classes: tuple[str, ...]

    def __call__(self, inputs: "Tensor") -> "Tensor": ...


class ModelServer(Photon):
    """Predicts with a saved model."""

    model: ClassifiesFixedShapes

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def init(self) -> None:
        import torch

        from leptonai.training.models import load_model

        # torch keeps this by thread: it is set in the one that will predict.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(int(threads))
        model = load_model(self.directory)
        if not isinstance(model, ClassifiesFixedShapes) or not model.classes:
            raise InvalidRequest(
                f"{self.directory} holds a {type(model).__name__}, which is not "
                "served without code",
                hint="write a Photon that loads it and says what its requests look like",
            )
        self.model = model
        with torch.inference_mode():  # the first pass is slow: nobody shall wait for it
            self.model(torch.zeros((1, *self.model.input_shape)))

    @Photon.handler
    def predict(self, inputs: list[Any]) -> Prediction:
        """The most likely class of each input, and how likely each class is."""
        import torch

        with torch.inference_mode():
            probabilities = self.model(self._images(inputs)).softmax(dim=1)
        classes = self.model.classes
        return Prediction(
            labels=[classes[index] for index in probabilities.argmax(dim=1).tolist()],
            probabilities=probabilities.tolist(),
        )

    def _images(self, inputs: list[Any]) -> "Tensor":
        import numpy as np
        import torch

        shape = self.model.input_shape
        expected = f"inputs: expected a list of images of shape {list(shape)}"
        if not inputs:
            raise HTTPException(422, f"{expected}, got an empty list")
        if len(inputs) > MAX_BATCH:
            raise HTTPException(
                422, f"inputs: expected at most {MAX_BATCH} in a request, got {len(inputs)}"
            )
        try:
            images = np.asarray(inputs)
        except ValueError:
            raise HTTPException(422, f"{expected}, got some of differing shapes") from None
        if (
            images.dtype.kind not in "iuf"
        ):  # not integers or floats: texts, nulls, numbers too large
            raise HTTPException(422, f"{expected}, got some that are not numbers")
        if shape[-1] == 1 and images.shape[1:] == shape[:-1]:
            images = images[..., None]
        if images.shape[1:] != shape:
            raise HTTPException(422, f"{expected}, got {list(images.shape[1:])}")
        with np.errstate(over="ignore"):
            pixels = images.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise HTTPException(422, f"{expected}, got some with numbers too large")
        return torch.from_numpy(pixels)


def main() -> None:
    directory = os.environ.get("LEPTON_MODEL_DIR")
    if not directory:
        sys.exit("error: LEPTON_MODEL_DIR is not set\nhint: set it to a saved model's directory")
    ModelServer(directory).launch()


if __name__ == "__main__":
    main()
