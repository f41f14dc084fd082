"""Models of Lepton's own."""

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import reader_of
from leptonai.serving.kinds.opening import Opened, pipeline_in
from leptonai.training.models import load_model
from leptonai.training.models.signature import read_signature, signature_of
from leptonai.training.stepping import call


def open_model(directory: Path, file: Path) -> Opened:
    model = load_model(directory)
    pipeline = pipeline_in(directory)
    try:
        known = signature_of(model, pipeline)
    except InvalidRequest as refused:
        raise InvalidRequest(f"{directory} holds {refused.message}", hint=refused.hint) from None
    signature = read_signature(directory) or known

    def predict(inputs: NDArray[Any]) -> NDArray[Any]:
        tensors = torch.from_numpy(inputs)
        model.check(tensors)
        with torch.inference_mode():
            found: NDArray[Any] = model.task.prediction(call(model, tensors)).numpy(force=True)
        return found

    def warm_up() -> None:
        with torch.inference_mode():
            call(model, model.example())

    return Opened(signature, reader_of(signature, pipeline), predict, warm_up)
