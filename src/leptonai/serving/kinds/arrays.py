"""Signatures of models that take arrays or rows, where no `signature.json` says more."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.errors import InvalidRequest
from leptonai.training.models.signature import Signature, read_signature

if TYPE_CHECKING:
    from leptonai.data.pipeline import Pipeline


def signature_for(
    directory: Path, pipeline: "Pipeline | None", known: Signature, outputs: int | None
) -> Signature:
    """What lies beside the model, else what its pipeline takes, else what is known of itself.

    Args:
        outputs: numbers that it gives for an input, where that is known.

    Raises:
        InvalidRequest: there are more or fewer classes than outputs.
    """
    written = read_signature(directory)
    signature = written or _through(pipeline, known)
    classes = signature.classes
    if signature.outputs == "labels":
        if not classes:
            theirs: Sequence[Any] = getattr(pipeline, "classes", None) or ()
            classes = tuple(map(str, theirs)) or known.classes
            classes = classes or tuple(map(str, range(outputs or 0)))
            signature = msgspec.structs.replace(signature, classes=classes)
        if outputs is not None and len(classes) != outputs:
            raise InvalidRequest(
                f"the model in {directory} tells {outputs} classes apart, and {len(classes)} are "
                "named",
                hint="name as many in its signature.json",
            )
    return signature


def _through(pipeline: "Pipeline | None", known: Signature) -> Signature:
    if pipeline is None:
        return known
    if pipeline.takes == "table":
        takes = {each.name: each.type for each in pipeline.fitted.takes}
        takes.pop(pipeline.target or "", None)
        return msgspec.structs.replace(known, inputs="rows", columns=takes, shape=(), dtype="")
    if pipeline.takes == "texts":
        return msgspec.structs.replace(known, inputs="texts", shape=(), dtype="str")
    if pipeline.takes == "images":
        return msgspec.structs.replace(known, inputs="images", dtype="uint8")
    return known
