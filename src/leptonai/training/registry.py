"""`register`: a trained model becomes the next version of a name, with what it was made from."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch.distributed as dist

from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_name
from leptonai.training.feeding import dataset_of, pipeline_of
from leptonai.training.models import checks
from leptonai.training.models.base import Model
from leptonai.training.models.saving import PIPELINE_FILE, load_model
from leptonai.training.models.signature import Signature, signature_of, write_signature

if TYPE_CHECKING:
    from leptonai.client import LeptonClient
    from leptonai.data.pipeline import Pipeline
    from leptonai.spec.artifacts import Artifact

RETRY_FOR_S = 600.0  # with a workspace that is away: what was trained for hours is worth the wait
IMAGES_AXES = 4  # of a batch: images, height, width, channels
MAX_SHOWN = 200  # classes or columns, in the record; the model's own files have them all


def register(
    model: Any,
    name: str,
    *,
    pipeline: Any = None,
    data: Any = None,
    metrics: Mapping[str, float] | None = None,
    tokenizer: Any = None,
    client: "LeptonClient | None" = None,
) -> "Artifact | None":
    """Make a trained model the next version of a name: weights, pipeline and signature in one
    tree, and in its record what it was made from and how good it is.

    Beside models of Lepton those of scikit-learn, transformers, Keras and ONNX are taken.

    Within a job also which job and which run it comes from. Where several train together all of
    them call this, rank 0 registers, and the others get None.

    Args:
        pipeline: what makes its inputs of raw ones; by default that of `data`.
        data: what it learnt from, a Dataset or a DataLoader of one; by default $LEPTON_DATASET.
        metrics: of its last epoch, say.
        tokenizer: of a model of transformers; or its image processor.
        client: of the workspace; by default what `LeptonClient()` finds.

    Raises:
        InvalidRequest: it cannot be saved so that others can load it; says why.
    """
    found = pipeline_of(data) if pipeline is None else pipeline
    if not isinstance(model, Model):
        return _register_other(model, name, found, tokenizer, data, metrics or {}, client)
    check_can_register(model, name, found)
    name_classes(model, data, found)
    with tempfile.TemporaryDirectory(prefix="lepton-model-") as scratch:
        directory = Path(scratch) / "model"
        model.save(directory, pipeline=found)
        if dist.is_initialized() and dist.get_rank():
            return None
        saved = load_model(directory)  # so what is registered can be read
        signature = _signature(saved, found, data)
        if signature is not None:
            write_signature(directory, signature)
        facts: dict[str, Any] = {"parameters": sum(each.numel() for each in saved.parameters())}
        if signature is not None:
            facts["signature"] = _shown(signature)
        return _pushed(name, directory, saved.format, found, data, metrics or {}, facts, client)


def _register_other(
    model: Any,
    name: str,
    pipeline: Any,
    companion: Any,
    data: Any,
    metrics: Mapping[str, float],
    client: "LeptonClient | None",
) -> "Artifact | None":
    """A model of another library."""
    from leptonai.serving.kinds.saving import save

    check_name(name, "model")
    _check_pipeline(pipeline)
    if dist.is_initialized() and dist.get_rank():
        return None
    with tempfile.TemporaryDirectory(prefix="lepton-model-") as scratch:
        directory = Path(scratch) / "model"
        saved = save(model, directory, companion)
        if pipeline is not None:
            pipeline.save(directory / PIPELINE_FILE)
        return _pushed(name, directory, saved.format, pipeline, data, metrics, saved.facts, client)


def check_can_register(model: Any, name: str, pipeline: Any) -> None:
    """What would else be found out when the training is over.

    Raises:
        InvalidRequest: the name is none, or model or pipeline are not such that others can load
            them.
    """
    check_name(name, "model")
    if not isinstance(model, Model):
        raise InvalidRequest(
            f"a {type(model).__name__} does not say how it is built, so it cannot be registered",
            hint="derive it from leptonai.training.models.Model (docs/howto/models.md)",
        )
    _check_pipeline(pipeline)


def _check_pipeline(pipeline: Any) -> None:
    from leptonai.data.pipeline import Pipeline

    if pipeline is not None and not isinstance(pipeline, Pipeline):
        raise InvalidRequest(
            f"the pipeline is a {type(pipeline).__name__}, which cannot be saved with the model, "
            "and without it the model would be served other inputs than it learnt from",
            hint="make it a leptonai.Pipeline of steps",
        )


def reference_of(data: Any) -> str:
    """NAME@VERSION, where it is a version of a workspace."""
    dataset = dataset_of(data)
    name, version = getattr(dataset, "name", ""), getattr(dataset, "version", None)
    return f"{name}@{version}" if name and version else ""


def name_classes(model: Model, data: Any, pipeline: "Pipeline | None") -> None:
    """As the data calls them, unless they were given names.

    Raises:
        InvalidRequest: the data has more of them.
    """
    of_table = getattr(pipeline, "takes", "") == "table" and getattr(pipeline, "target", None)
    theirs = getattr(pipeline if of_table else dataset_of(data), "classes", None)
    mine = model.classes
    if not mine or not theirs:
        return
    if len(theirs) > len(mine):
        raise InvalidRequest(
            f"the data has {len(theirs)} classes, and the model {len(mine)}",
            hint=f"make the model with num_classes={len(theirs)}",
        )
    if len(mine) == len(theirs) and mine == checks.numbered(len(mine)):
        model.classes = tuple(map(str, theirs))


def _signature(model: Model, pipeline: "Pipeline | None", data: Any) -> Signature | None:
    """None of a model that needs code to be served."""
    image_size = data.image_size if getattr(data, "decodes", False) else None
    pixels = dataset_of(data)
    pixels = pixels.as_columns() if hasattr(pixels, "as_columns") else pixels
    pixels = pixels[0] if isinstance(pixels, tuple) else pixels
    if not (hasattr(pixels, "dtype") and getattr(pixels, "ndim", 0) == IMAGES_AXES):
        pixels = None
    try:
        return signature_of(model, pipeline, image_size=image_size, pixels=pixels)
    except InvalidRequest:
        return None


def _pushed(
    name: str,
    directory: Path,
    format: str,
    pipeline: "Pipeline | None",
    data: Any,
    metrics: Mapping[str, float],
    facts: Mapping[str, Any],
    client: "LeptonClient | None",
) -> "Artifact":
    from leptonai.client import LeptonClient
    from leptonai.spec.artifacts import ArtifactSpec

    lineage = {
        "dataset": reference_of(data) or os.environ.get("LEPTON_DATASET", ""),
        "job": os.environ.get("LEPTON_JOB_NAME", ""),
        "run": _run_id(),
        "pipeline": pipeline.digest if pipeline is not None else "",
    }
    attributes: dict[str, Any] = {
        "metrics": {key: float(value) for key, value in metrics.items()},
        **facts,
    }
    if workers := os.environ.get("WORLD_SIZE", ""):
        attributes["workers"] = int(workers)
    at = client or LeptonClient(retry_for_s=RETRY_FOR_S)
    try:
        digest, size_bytes = at.trees.push_sized(directory)
        spec = ArtifactSpec(
            digest=digest,
            size_bytes=size_bytes,
            format=format,
            lineage={role: of for role, of in lineage.items() if of},
            attributes=attributes,
        )
        registered = at.models.register(name, spec)
    finally:
        if client is None:
            at.close()
    _tell_the_run(registered.reference)
    return registered


def _shown(signature: Signature) -> dict[str, Any]:
    """Not more than a record may hold."""
    shown: dict[str, Any] = msgspec.to_builtins(signature)
    if len(signature.columns) > MAX_SHOWN:
        shown["columns"] = dict([*signature.columns.items()][:MAX_SHOWN])
    if len(signature.classes) > MAX_SHOWN:
        shown["classes"] = signature.classes[:MAX_SHOWN]
    return shown


def _run_id() -> str:
    from leptonai import run
    from leptonai.spec.runs import run_id_of_job

    active = run.current()
    if active is not None:
        return active.id
    job = os.environ.get("LEPTON_JOB_NAME", "")
    return run_id_of_job(os.environ.get("LEPTON_WORKSPACE_ID", ""), job) if job else ""


def _tell_the_run(reference: str) -> None:
    from leptonai import run

    active = run.current()
    if active is not None:
        active.log_model(made=reference)


def model_name(text: str) -> str:
    """Of a class, say, what may name a model or a job."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"
