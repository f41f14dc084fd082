"""``python -m leptonai.serving.model`` serves the model in $LEPTON_MODEL_DIR without code.

::

    POST /predict {"inputs": […]} -> {"labels": ["3", …], "probabilities": [[0.01, …], …]}
                                  or {"values": [[21.5], …]}

Inputs are raw, as they were before the pipeline that the model learnt with, which lies beside it
and is applied here: a row {"age": 31, "town": "Ulm"}, a text, an image as a file in base64 or as
nested lists of pixels, or any array; one of them (but for arrays), or a list. A file may come as it
is: ``curl --data-binary @seven.png …/predict/file``.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import Images, Read, reader_of, warm_up
from leptonai.serving.photon import Photon

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leptonai.training.models import Model
    from leptonai.training.models.signature import Signature


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of each an input, in the order of the inputs."""

    labels: list[str] = []
    probabilities: list[list[float]] = []  # of the classes, in the order of the signature
    values: list[Any] = []  # of a model that does not tell classes


class ModelServer(Photon):
    """Predicts with a saved model, from raw inputs."""

    model: "Model"
    signature: "Signature"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def init(self) -> None:
        import torch

        from leptonai.training.models import load_model
        from leptonai.training.models.saving import PIPELINE_FILE
        from leptonai.training.models.signature import read_signature, signature_of
        from leptonai.training.stepping import call

        # torch keeps this by thread: it is set in the one that will predict.
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(int(threads))
        self.model = load_model(self.directory)
        pipeline = None
        if (self.directory / PIPELINE_FILE).exists():
            from leptonai.data.pipeline import Pipeline

            pipeline = Pipeline.load(self.directory / PIPELINE_FILE)
        try:
            known = signature_of(self.model, pipeline)
        except InvalidRequest as refused:
            raise InvalidRequest(
                f"{self.directory} holds {refused.message}", hint=refused.hint
            ) from None
        self.signature = read_signature(self.directory) or known
        self._read: Read = reader_of(self.signature, pipeline)
        # The first pass is slow: nobody shall wait for it.
        warm_up(self.signature, self._read)
        with torch.inference_mode():
            call(self.model, self.model.example())

    @Photon.handler
    def predict(self, inputs: list[Any] | dict[str, Any] | str) -> Prediction:
        """The most likely class of each input, and how likely each class is; or its values."""
        return self._predicted(self._read(inputs))

    @Photon.handler("predict/file", raw=True)
    def predict_file(self, body: bytes) -> Prediction:
        """Of one image, or of one text: the file as it is."""
        if isinstance(self._read, Images):
            return self._predicted(self._read.of_files([body]))
        if self.signature.inputs != "texts":
            raise InvalidRequest(
                f"this model takes {self.signature.inputs}, not files: send them to /predict"
            )
        try:
            return self._predicted(self._read(body.decode()))
        except UnicodeDecodeError:
            raise InvalidRequest("the text is not UTF-8") from None

    @Photon.handler("signature", method="GET")
    def what_it_takes(self) -> dict[str, Any]:
        """What an input is, and what comes back."""
        told: dict[str, Any] = msgspec.to_builtins(self.signature)
        return told

    def _predicted(self, inputs: "NDArray[Any]") -> Prediction:
        import torch

        from leptonai.training.stepping import call

        tensors = torch.from_numpy(inputs)
        self.model.check(tensors)
        with torch.inference_mode():
            outputs = self.model.task.prediction(call(self.model, tensors))
        if self.signature.outputs == "values":
            return Prediction(values=outputs.tolist())
        classes = self.signature.classes
        return Prediction(
            labels=[classes[index] for index in outputs.argmax(dim=1).tolist()],
            probabilities=outputs.tolist(),
        )


def main() -> None:
    directory = os.environ.get("LEPTON_MODEL_DIR")
    if not directory:
        sys.exit("error: LEPTON_MODEL_DIR is not set\nhint: set it to a saved model's directory")
    ModelServer(directory).launch()


if __name__ == "__main__":
    main()
