"""``python -m leptonai.serving.model`` serves the model in $LEPTON_MODEL_DIR without code.

::

    POST /predict {"inputs": […]} -> {"labels": ["3", …], "probabilities": [[0.01, …], …]}
                                  or {"values": [[21.5], …]}

Inputs are raw, as they were before the pipeline that the model learnt with, which lies beside it
and is applied here: a row {"age": 31, "town": "Ulm"}, a text, an image as a file in base64 or as
nested lists of pixels, or any array; one of them (but for arrays), or a list. A file may come as it
is: ``curl --data-binary @seven.png …/predict/file``.

Models of language answer at OpenAI's routes as well (`language/`), or are handed over to vLLM or
SGLang (`engines.py`). Where a photon is packed (`packing.py`), it is served in the model's place.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest, LeptonError, NotFound
from leptonai.serving import engines
from leptonai.serving.handlers import Batch
from leptonai.serving.inference import Tensor, Tensors
from leptonai.serving.inputs import Images, warm_up
from leptonai.serving.kinds.opening import Opened, open_model
from leptonai.serving.kinds.recognising import recognise
from leptonai.serving.packing import is_packed, unpacked
from leptonai.serving.photon import Photon
from leptonai.serving.predictions import Prediction, answer_together

if TYPE_CHECKING:
    from leptonai.training.models.signature import Signature


PROGRAM = "leptonai.serving.model"
MAX_CALLS = 128  # that go through the model together

Inputs = list[Any] | dict[str, Any] | str


class ModelServer(Photon):
    """Predicts with a saved model, from raw inputs."""

    signature: "Signature"

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def init(self) -> None:
        """Runs nothing of the model: a process that has may not be copied."""
        self._opened = self.opened()
        self.signature = self._opened.signature
        self._read = self._opened.read
        self._predict = self._opened.predict

    def warm_up(self) -> None:
        """The first pass is slow: nobody shall wait for it."""
        use_threads()
        warm_up(self.signature, self._read, self._predict)
        self._opened.warm_up()

    def opened(self) -> Opened:
        found = recognise(self.directory)
        if found is None:
            raise NotFound(
                f"{self.directory} holds no model: it needs config.json and model.safetensors, or "
                "one file in *.skops, *.onnx or *.keras",
                hint="make one with model.save(PATH)",
            )
        return open_model(found, self.directory)

    def predict(self, inputs: Inputs) -> Prediction:
        """The most likely class of each input, and how likely each class is; or its values."""
        (answer,) = self.predict_together([inputs])
        if isinstance(answer, Exception):
            raise answer
        return answer

    @Photon.handler("predict", max_batch_size=MAX_CALLS)
    def predict_together(self, inputs: Batch[Inputs]) -> Batch[Prediction | Exception]:
        """The most likely class of each input, and how likely each class is; or its values."""
        return answer_together(inputs, lambda given: self._predictions(self._read(given)))

    @Photon.handler("predict/file", raw=True, max_batch_size=MAX_CALLS)
    def predict_files(self, files: Batch[bytes]) -> Batch[Prediction | Exception]:
        """Of one image, or of one text: the file as it is."""
        return answer_together([[file] for file in files], self._of_files)

    @Photon.handler("infer", max_batch_size=MAX_CALLS)
    def infer(self, inputs: Batch[NDArray[Any]]) -> Batch[dict[str, Any] | Exception]:
        """Of tensors: what /predict answers, as arrays. Also by the Open Inference Protocol."""
        answers = answer_together([[*array] for array in inputs], self._of_arrays)
        return [
            answer if isinstance(answer, Exception) else _as_arrays(answer) for answer in answers
        ]

    @Photon.handler("signature", method="GET")
    def what_it_takes(self) -> dict[str, Any]:
        """What an input is, and what comes back."""
        told: dict[str, Any] = msgspec.to_builtins(self.signature)
        return told

    def _tensors(self) -> Tensors:
        """For the Open Inference Protocol: shapes as the model's signature has them."""
        known = self.signature
        outputs: dict[str, Tensor] = {"values": ("float32", (-1, -1))}
        if known.outputs != "values":
            likely = (-1, len(known.classes))
            outputs = {"labels": ("bytes", (-1,)), "probabilities": ("float32", likely)}
        given: Tensor = ("bytes", (-1,))  # texts, or files of images
        if known.inputs not in ("texts", "rows"):
            given = (known.dtype or "float32", (-1, *known.shape))
        return {"inputs": {"inputs": given}, "outputs": outputs}

    def _of_files(self, files: list[bytes]) -> list[Prediction]:
        if isinstance(self._read, Images):
            return self._predictions(self._read.of_files(files))
        if self.signature.inputs != "texts":
            raise InvalidRequest(
                f"this model takes {self.signature.inputs}, not files: send them to /predict"
            )
        try:
            return self._predictions(self._read([file.decode() for file in files]))
        except UnicodeDecodeError:
            raise InvalidRequest("the text is not UTF-8") from None

    def _of_arrays(self, arrays: list[Any]) -> list[Prediction]:
        if self.signature.inputs == "rows":
            raise InvalidRequest("this model takes rows, not tensors: send them to /predict")
        if self.signature.inputs == "texts":
            return self._of_files([bytes(text) for text in arrays])
        return self._predictions(self._read(arrays))

    def _predictions(self, inputs: Any) -> list[Prediction]:
        """One of each input."""
        outputs = self._predict(inputs)
        if self.signature.outputs == "values":
            return [Prediction(values=[value]) for value in outputs.tolist()]
        classes = self.signature.classes
        return [
            Prediction(labels=[classes[index]], probabilities=[likely])
            for index, likely in zip(outputs.argmax(axis=1).tolist(), outputs.tolist(), strict=True)
        ]


def use_threads() -> None:
    """As many as the platform gave: torch keeps that by thread, so this is called in the one that
    computes."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal() and int(threads) > 0:
        import torch

        torch.set_num_threads(int(threads))


def _as_arrays(answer: Prediction) -> dict[str, Any]:
    if answer.values:
        return {"values": np.asarray(answer.values, np.float32)}
    return {
        "labels": np.asarray(answer.labels),
        "probabilities": np.asarray(answer.probabilities, np.float32),
    }


def main() -> None:
    directory = os.environ.get("LEPTON_MODEL_DIR")
    if not directory:
        sys.exit("error: LEPTON_MODEL_DIR is not set\nhint: set it to a saved model's directory")
    try:
        served(Path(directory), PROGRAM).launch()
    except LeptonError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")


def served(directory: Path, program: str = PROGRAM) -> Photon:
    """What is served from a saved model's directory, not yet initialised.

    Where a photon is packed there that requires packages, this process becomes `program`, with the
    interpreter of an environment that has them; where another engine serves the model, that.

    Raises:
        InvalidRequest: it is damaged, or not for the engine that was asked for.
    """
    if is_packed(directory):
        return unpacked(directory, program)
    engine = os.environ.get(engines.VARIABLE) or "auto"
    found = recognise(directory)
    if found is not None and found.kind == "transformers":
        from leptonai.serving.kinds.pretrained import OFFLINE, task_of

        os.environ.update(OFFLINE)
        task = task_of(directory)
        if task in ("generation", "embedding"):
            if program == PROGRAM:
                engines.become(engine, directory, embeds=task == "embedding")
            elif engine not in ("auto", "transformers"):
                raise InvalidRequest(f"{engine} is a server of its own, and is not copied")
            from leptonai.serving.language.server import EmbeddingServer, WritingServer

            return (WritingServer if task == "generation" else EmbeddingServer)(directory)
    engines.check_not_asked_for(engine, directory)
    return ModelServer(directory)


if __name__ == "__main__":
    main()
