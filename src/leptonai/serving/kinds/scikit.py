"""Estimators of scikit-learn, as `skops.io.dump` writes them: a description, and arrays.

Unlike a pickle it names the types that it is made of, before any of them is made. Those that skops
knows (scikit-learn's estimators, numpy's, scipy's) are trusted, and those of `_HARMLESS`; of others
nobody knows what making them does, so they are refused unless $LEPTON_TRUSTED_TYPES names them.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest
from leptonai.serving.inputs import reader_of
from leptonai.serving.kinds.arrays import signature_for
from leptonai.serving.kinds.opening import Opened, not_installed, pipeline_in
from leptonai.serving.kinds.trees import check_trees
from leptonai.training.models.signature import Signature

# Parts of scikit-learn's estimators that only hold values; trees are looked at (`trees.py`).
_HARMLESS = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        *(
            f"sklearn.gaussian_process.kernels.{name}"
            for name in ("ConstantKernel", "DotProduct", "Matern", "Product", "RBF",
                         "RationalQuadratic", "Sum", "WhiteKernel")
        ),
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)  # fmt: skip
TRUSTED_TYPES = "LEPTON_TRUSTED_TYPES"  # a variable: full names of types, with commas between


def open_model(directory: Path, file: Path) -> Opened:
    estimator = load(file)
    pipeline = pipeline_in(directory)
    known = _signature(estimator, directory)
    outputs = len(known.classes) or None
    signature = signature_for(directory, pipeline, known, outputs)

    def predict(inputs: Any) -> NDArray[Any]:
        try:
            return _predicted(estimator, signature, _as_trained(estimator, inputs))
        except (ValueError, TypeError) as wrong:
            raise InvalidRequest(f"the model refuses these inputs: {wrong}") from None

    return Opened(signature, reader_of(signature, pipeline), predict)


def load(file: Path) -> Any:
    """
    Raises:
        InvalidRequest: it is damaged, or made of types that nobody trusts.
    """
    try:
        import skops.io
    except ImportError:
        not_installed("skops", "serve-models", file.parent)
    try:
        needed = skops.io.get_untrusted_types(file=file)
    except Exception as wrong:  # whatever a damaged file makes it raise
        raise _damaged(file, wrong) from None
    trusted = {name.strip() for name in os.environ.get(TRUSTED_TYPES, "").split(",")}
    unknown = sorted(set(needed) - trusted - _HARMLESS)
    if unknown:
        raise InvalidRequest(
            f"{file.name} is made of types that are not trusted: {', '.join(unknown)}",
            hint=f"if you trust whoever wrote it: --env {TRUSTED_TYPES}={','.join(unknown)}; "
            "or save it as ONNX (skl2onnx)",
        )
    try:
        estimator = skops.io.load(file, trusted=needed)
    except Exception as wrong:
        raise _damaged(file, wrong) from None
    check_trees(estimator)
    return estimator


def _damaged(file: Path, wrong: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"{file} cannot be loaded: {wrong or type(wrong).__name__}",
        hint="save it again, with the scikit-learn of where it is served",
    )


def _signature(estimator: Any, directory: Path) -> Signature:
    told: dict[str, Any] = {"outputs": "values"}
    if hasattr(estimator, "classes_"):
        classes = estimator.classes_
        if not hasattr(estimator, "predict_proba") or isinstance(classes, list):
            raise InvalidRequest(
                f"the {type(estimator).__name__} in {directory} gives no probabilities of classes",
                hint="wrap it in a CalibratedClassifierCV, or write a Photon",
            )
        told = {"outputs": "labels", "classes": tuple(str(each) for each in classes)}
    if _reads_texts(estimator):
        return Signature(inputs="texts", dtype="str", **told)
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return Signature(inputs="rows", columns={str(name): "any" for name in names}, **told)
    count = getattr(estimator, "n_features_in_", None)
    shape = () if count is None else (int(count),)
    return Signature(inputs="arrays", shape=shape, dtype="float64", **told)


def _reads_texts(estimator: Any) -> bool:
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

    first = estimator
    while getattr(first, "steps", None):
        first = first.steps[0][1]
    return isinstance(first, CountVectorizer | HashingVectorizer)


def _as_trained(estimator: Any, inputs: Any) -> Any:
    """Rows as the table with the columns that it learnt from."""
    if not (isinstance(inputs, list) and inputs and isinstance(inputs[0], Mapping)):
        return inputs
    names = [str(name) for name in estimator.feature_names_in_]
    columns: dict[str, Sequence[Any]] = {name: [row[name] for row in inputs] for name in names}
    try:
        import pandas

        return pandas.DataFrame(columns)
    except ImportError:
        import polars

        return polars.DataFrame(columns, strict=False)


def _predicted(estimator: Any, signature: Signature, inputs: Any) -> NDArray[Any]:
    if signature.outputs == "labels":
        return np.asarray(estimator.predict_proba(inputs))
    found = estimator.predict if hasattr(estimator, "predict") else estimator.transform
    made = found(inputs)
    return np.asarray(made.toarray() if hasattr(made, "toarray") else made)
