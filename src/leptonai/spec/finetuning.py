"""Fine-tuning: a published language model learns from examples, as a job."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from leptonai.spec.metadata import Wire

DEFAULT_TRAINER = "lepton-sft"
STRING = {"type": "string"}
MODEL_TYPES = "a registered NAME or NAME@VERSION, a directory, or hf://OWNER/NAME"


class Trainer(Wire, frozen=True):
    """What turns a job into a fine-tuning. `train_config` is read as a `TrainConfig`."""

    id: str | None = None
    train_config: Any = None


class TrainConfig(Wire, frozen=True, forbid_unknown_fields=True):
    """What the trainer `lepton-sft` is told."""

    model_uri: Annotated[str, Meta(description=f"What learns: {MODEL_TYPES}.", min_length=1)]
    train_dataset_uri: Annotated[
        str,
        Meta(
            description="What it learns from: a registered NAME or NAME@VERSION, or a file. A row "
            "has messages, or prompt and completion, or text.",
            min_length=1,
        ),
    ]
    validation_dataset_uri: Annotated[
        str, Meta(description="The same, of what is only looked at.")
    ] = ""
    column_mapping: Annotated[
        dict[str, str],
        Meta(description="The data's column for a column of ours, as question for prompt."),
    ] = field(default_factory=dict)
    technique: Annotated[
        Literal["lora", "sft"], Meta(description="lora: small matrices learn; sft: all weights do.")
    ] = "lora"
    lora_rank: Annotated[int, Meta(ge=1, le=1024, description="Rank of those matrices.")] = 16
    lora_alpha: Annotated[float, Meta(gt=0, description="Their scale is alpha / rank.")] = 32.0
    lora_dropout: Annotated[float, Meta(ge=0, lt=1, description="Of what goes into them.")] = 0.0
    epochs: Annotated[int, Meta(ge=1, le=10_000, description="Times through the data.")] = 1
    max_steps: Annotated[int, Meta(ge=0, description="End after so many; 0: no limit.")] = 0
    batch_size: Annotated[int, Meta(ge=1, le=65_536, description="Examples a step.")] = 8
    accumulation: Annotated[
        int, Meta(ge=1, le=65_536, description="Pieces that a step is taken in.")
    ] = 1
    learning_rate: Annotated[float, Meta(gt=0, le=10, description="At its highest.")] = 2e-4
    warmup_steps: Annotated[int, Meta(ge=0, description="Until it is at its highest.")] = 0
    max_tokens: Annotated[
        int, Meta(ge=2, le=1 << 20, description="Of an example; what is longer is cut.")
    ] = 1024
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], Meta(description="Of what is computed.")
    ] = "fp32"
    seed: Annotated[int, Meta(ge=0, description="Of all that draws.")] = 0
    register_as: Annotated[
        str, Meta(description='The name that the result becomes a version of; "": the job\'s own.')
    ] = ""


_SHOWN = ("type", "description", "default", "enum", "minimum", "maximum", "additionalProperties")


def schema() -> dict[str, Any]:
    """Of `TrainConfig`, as clients make options of it: one object without references, and of the
    words of JSON schema those that templates know."""
    found: dict[str, Any] = msgspec.json.schema(TrainConfig)["$defs"]["TrainConfig"]
    properties = {
        name: {word: of[word] for word in _SHOWN if word in of} | ({} if "type" in of else STRING)
        for name, of in found["properties"].items()
    }
    return {
        "type": "object",
        "description": "Fine-tune a causal language model.",
        "properties": properties,
        "required": found["required"],
    }
