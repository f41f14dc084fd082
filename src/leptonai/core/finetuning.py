"""What a fine-tuning runs. Pure."""

from typing import Any

import msgspec
from msgspec.structs import replace

from leptonai.errors import InvalidRequest
from leptonai.spec import codec
from leptonai.spec.artifacts import ArtifactSpec
from leptonai.spec.finetuning import DEFAULT_TRAINER, TrainConfig, Trainer, schema
from leptonai.spec.jobs import JobSpec
from leptonai.spec.metadata import Metadata
from leptonai.spec.templates import LeptonTemplate, TemplateSpec

PROGRAM = ("python", "-m", "leptonai.training.finetuning")
HUB = "hf://"
PLACES = ("/", "file://")  # how a file or directory of the node begins
LANGUAGE_MODEL = "transformers"  # the format of versions that may be one
CAUSAL = ("ForCausalLM", "LMHeadModel")  # end the names of architectures that are one
MAYBE_CAUSAL = "ForConditionalGeneration"  # as Gemma 3, but not T5


def trained(spec: JobSpec) -> JobSpec:
    """The job of a fine-tuning: with the command that its trainer means, and a token that ends with
    it, to fetch what it learns from and to register what it made.

    Raises:
        InvalidRequest: there is no such trainer, or it cannot be configured so.
    """
    trainer = spec.trainer or Trainer()
    if (trainer.id or DEFAULT_TRAINER) != DEFAULT_TRAINER:
        raise InvalidRequest(
            f"spec.trainer.id: there is no trainer {str(trainer.id)[:60]!r}",
            hint=f"Use {DEFAULT_TRAINER}, or leave it out.",
        )
    config = _config(trainer.train_config)
    command = [*PROGRAM, msgspec.json.encode(config).decode()]
    return replace(
        spec,
        trainer=Trainer(id=DEFAULT_TRAINER, train_config=msgspec.to_builtins(config)),
        container=replace(spec.container, command=command),
        include_workspace_token=True,
    )


def registered(spec: JobSpec) -> tuple[list[str], list[str]]:
    """The models and the datasets that a fine-tuning, as `trained` made it, needs to be registered:
    they can be nothing else where it will run."""
    assert spec.trainer is not None
    if spec.workdir is not None or spec.container.image:
        return [], []  # a file that comes with it goes before what is registered
    config = _config(spec.trainer.train_config)
    models = [] if config.model_uri.startswith((*PLACES, HUB)) else [config.model_uri]
    data = (config.train_dataset_uri, config.validation_dataset_uri)
    return models, [uri for uri in data if uri and not uri.startswith(PLACES)]


def can_learn(model: ArtifactSpec) -> bool | None:
    """None: nobody knows before it is loaded."""
    if model.format != LANGUAGE_MODEL:
        return False
    known = model.attributes.get("architectures")
    if not isinstance(known, list) or not known:
        return None
    if any(str(each).endswith(CAUSAL) for each in known):
        return True
    return None if any(str(each).endswith(MAYBE_CAUSAL) for each in known) else False


def template() -> LeptonTemplate:
    """Of which clients make the options of a fine-tuning."""
    told = schema()
    config = {name: f"{{{{{name}}}}}" for name in told["properties"]}
    content = {
        "resource_shape": "cpu.small",
        "trainer": {"id": DEFAULT_TRAINER, "train_config": config},
    }
    return LeptonTemplate(
        metadata=Metadata(id=DEFAULT_TRAINER, name=DEFAULT_TRAINER),
        spec=TemplateSpec(content=content, json_schema=told, workload_type="job"),
    )


def _config(told: Any) -> TrainConfig:
    if isinstance(told, str):  # some send it as text
        told = codec.parse(told.encode(errors="replace"))
    if not isinstance(told, dict):
        raise InvalidRequest(
            "spec.trainer.train_config: expected object",
            hint="It says model_uri and train_dataset_uri at least.",
        )
    given = {name: value for name, value in told.items() if value is not None}
    try:
        return codec.convert(TrainConfig, given)
    except InvalidRequest as refused:
        raise InvalidRequest(
            f"spec.trainer.train_config.{refused.message}", hint=refused.hint
        ) from None
