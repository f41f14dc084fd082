"""Models of other libraries, written down so that they can be served without code or pickles."""

from importlib import import_module
from pathlib import Path
from typing import Any

from leptonai.errors import InvalidRequest
from leptonai.serving.kinds.recognising import Found, recognise


def save(model: Any, directory: Path, companion: Any = None) -> Found:
    """
    Args:
        model: an estimator of scikit-learn; a model or a pipeline of transformers; a model of
            Keras; an onnx.ModelProto.
        companion: of a model of transformers its tokenizer, or image processor.

    Raises:
        InvalidRequest: it is none of these, or cannot be written so.
    """
    directory.mkdir(parents=True, exist_ok=True)
    bases = {f"{base.__module__}.{base.__name__}" for base in type(model).__mro__}
    if "sklearn.base.BaseEstimator" in bases:
        _save_estimator(model, directory)
    elif any(base.startswith("keras.") and base.endswith(".Model") for base in bases):
        model.save(directory / "model.keras")
    elif any(base.startswith("onnx.") and base.endswith(".ModelProto") for base in bases):
        (directory / "model.onnx").write_bytes(model.SerializeToString())
    elif any(base.startswith("transformers.") for base in bases):
        model.save_pretrained(directory)
        if companion is not None:
            companion.save_pretrained(directory)
    else:
        raise InvalidRequest(
            f"a {type(model).__name__} does not say how it is built, so it cannot be registered",
            hint="derive it from leptonai.training.models.Model (docs/howto/models.md), or export "
            "it to ONNX",
        )
    found = recognise(directory)
    if found is None:
        raise InvalidRequest(f"a {type(model).__name__} was saved, and is no model")
    return found


def _save_estimator(model: Any, directory: Path) -> None:
    try:
        skops: Any = import_module("skops.io")
    except ImportError:
        raise InvalidRequest(
            "estimators are saved with skops, which is not installed",
            hint="pip install 'openlepton[serve-models]'",
        ) from None
    from leptonai.serving.kinds.scikit import load

    try:
        skops.dump(model, directory / "model.skops")
    except Exception as wrong:  # whatever an estimator's parts make it raise
        raise InvalidRequest(
            f"the {type(model).__name__} cannot be saved without a pickle: {wrong}",
            hint="leave functions out of it, or export it to ONNX (skl2onnx)",
        ) from None
    load(directory / "model.skops")  # so what is registered can be read
