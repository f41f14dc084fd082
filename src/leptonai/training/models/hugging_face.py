"""Models of Hugging Face, through the library `transformers`.

Shape letters in this file: B rows, T tokens, K classes, V size of the vocabulary.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leptonai.errors import InvalidRequest, NotFound, first_line
from leptonai.training.feeding import moved
from leptonai.training.models import checks
from leptonai.training.models.base import Model
from leptonai.training.models.tasks import Classes
from leptonai.training.parallel import Plan

if TYPE_CHECKING:
    from numpy.random import Generator

TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "image-classification": "AutoModelForImageClassification",
}
MAX_TOKENS = 512  # of a text, unless its tokenizer says less
# What a configuration can name that would be fetched and run.
_NEVER = ("auto_map", "custom_pipelines", "trust_remote_code", "attn_implementation")


class HFModel(Model, format="hugging-face"):
    """A published model by its name, or one that lies in a directory.

    Its weights have to be safetensors, and its code that of `transformers` itself: nothing that
    comes with the weights is ever run. Saved, it is a model like the others.

    Inputs are tokens [B, T], where padding is not read; texts, where there is a tokenizer; or a
    dict of what the model takes. Outputs are scores: [B, K], or [B, T, K] or [B, T, V] by token.

    Args:
        source: "name", "owner/name", or a directory; without it, the weights are new.
        task: one of `TASKS`.
        num_classes: K; as the source has it, unless given. Another number gives a new last layer.
        tokenizer: name or directory of the tokenizer; that of the source unless given.
        architecture: the model's configuration where there is no source: a dict with "model_type".
    """

    answers = False  # what it takes depends on a tokenizer that lies elsewhere
    built_on = "cpu"  # what transformers builds has buffers that are in no file

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        task: str,
        num_classes: int | None = None,
        tokenizer: str | None = None,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        transformers = _transformers()
        checks.choice("task", task, [*TASKS])
        if (source is None) == (architecture is None):
            raise InvalidRequest("expected a source or an architecture, and not both")
        try:
            config = (
                transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
                if source is not None
                else _config(architecture or {})
            )
            config = _config(json.loads(config.to_json_string(use_diff=False)))
            if num_classes is not None:
                config.num_labels = checks.whole("num_classes", num_classes, 1, checks.MAX_CLASSES)
            auto = getattr(transformers, TASKS[task])
            if source is None:
                inside = auto.from_config(config, trust_remote_code=False)
            else:
                inside = auto.from_pretrained(
                    source,
                    config=config,
                    trust_remote_code=False,
                    use_safetensors=True,
                    ignore_mismatched_sizes=num_classes is not None,
                    dtype=torch.float32,
                )
        except OSError as error:  # what transformers raises where nothing is to be found
            raise NotFound(
                f"there is no {task} model with safetensors at {source}: {first_line(error)}",
                hint="give a name of huggingface.co, or a directory with config.json and "
                "model.safetensors",
            ) from error
        except (ValueError, KeyError, TypeError, ImportError) as error:
            raise InvalidRequest(
                f"{source or 'the architecture'} is no {task} model: {first_line(error)}",
                hint="models that bring code of their own are never run",
            ) from error
        self.source = None  # the weights are this model's own from now on
        self.hf_task = task
        self.num_classes = num_classes
        self.tokenizer = str(source) if tokenizer is None and source is not None else tokenizer
        self.architecture = _plain_config(config)
        self.inside = inside.eval()
        generates = task in ("fill-mask", "text-generation")
        self.task = Classes(int(config.vocab_size if generates else config.num_labels))
        self.classes = (
            None if generates else tuple(str(name) for _, name in sorted(config.id2label.items()))
        )
        self._tokenise: Any = None

    def config(self) -> dict[str, Any]:
        return {
            "task": self.hf_task,
            "num_classes": self.num_classes,
            "tokenizer": self.tokenizer,
            "architecture": self.architecture,
        }

    def forward(self, inputs: Any = None, **named: Tensor) -> Tensor:
        if isinstance(inputs, Sequence):
            inputs = moved(self.tokenise(inputs), self.device)
        if isinstance(inputs, Tensor):
            if self.hf_task == "image-classification":
                checks.shape(self, "images", inputs, ("B", "C", "H", "W"))
                inputs = {"pixel_values": inputs}
            else:
                checks.shape(self, "tokens", inputs, ("B", "T"))
                inputs = {"input_ids": inputs.long(), "attention_mask": self._mask(inputs)}
        scores: Tensor = self.inside(**(inputs or {}), **named).logits
        return scores

    def tokenise(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """As the model takes them, padded to the longest and cut to what it can read."""
        if self._tokenise is None:
            if self.tokenizer is None:
                raise InvalidRequest(
                    "the model has no tokenizer, so it takes tokens and no texts",
                    hint="make it with tokenizer=NAME",
                )
            try:
                self._tokenise = _transformers().AutoTokenizer.from_pretrained(
                    self.tokenizer, trust_remote_code=False
                )
            except (OSError, ValueError) as error:
                raise NotFound(
                    f"there is no tokenizer at {self.tokenizer}: {first_line(error)}",
                    hint="make the model with tokenizer=NAME, or give it tokens",
                ) from error
        longest = min(MAX_TOKENS, self._tokenise.model_max_length)
        made = self._tokenise(
            [*texts], padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return dict(made)

    def pair(self, batch: Any, rng: "Generator | None" = None) -> tuple[Any, Any]:
        """Texts become tokens. Tokens alone are their own targets, where the task is to go on."""
        paired = isinstance(batch, Mapping) or (isinstance(batch, tuple | list) and len(batch) == 2)
        if self.hf_task == "text-generation" and not paired:
            tokens_BT = self.inputs_of(batch)
            return tokens_BT[:, :-1], tokens_BT[:, 1:]
        inputs, targets = super().pair(batch)
        if isinstance(inputs, Sequence):
            inputs = {name: each.numpy() for name, each in self.tokenise(inputs).items()}
        return inputs, targets

    def example(self, count: int = 1) -> Tensor:
        if self.hf_task == "image-classification":
            side, channels = self.architecture["image_size"], self.architecture["num_channels"]
            return torch.zeros((count, channels, side, side))
        padding = self.architecture.get("pad_token_id")
        return torch.full((count, 8), 1 if padding == 0 else 0)

    def plan(self) -> Plan:
        """The layers, as transformers names those that are not to be split."""
        names = {*(getattr(self.inside, "_no_split_modules", None) or ())}
        return Plan(blocks=[part for part in self.modules() if type(part).__name__ in names])

    def check_inputs(self, inputs: Any) -> None:
        if isinstance(inputs, Tensor):
            if self.hf_task == "image-classification":
                checks.finite("images", inputs)
            else:
                vocabulary = int(self.architecture["vocab_size"])
                checks.numbers_below("the tokens", inputs, vocabulary)

    def _mask(self, tokens_BT: Tensor) -> Tensor:
        padding = self.architecture.get("pad_token_id")
        if padding is None:
            return torch.ones_like(tokens_BT, dtype=torch.int64)
        mask_BT: Tensor = tokens_BT != padding
        return mask_BT.long()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InvalidRequest(
            "Hugging Face models need the library transformers, which is not installed",
            hint='pip install "openlepton[hf]"',
        ) from None
    return transformers


def _config(architecture: Mapping[str, Any]) -> Any:
    """Of a model whose code is in transformers, without what would be fetched and run."""
    options = _harmless(architecture)
    if options.pop("quantization_config", None):
        raise InvalidRequest(
            "the model is quantised, so it cannot be trained", hint="take the unquantised one"
        )
    for name, value in options.items():
        if "layers" in name and isinstance(value, int):
            checks.whole(name, value, 0, checks.MAX_LAYERS)
    kind = options.pop("model_type", None)
    if not isinstance(kind, str):
        raise InvalidRequest("expected an architecture with a model_type, a text")
    return _transformers().AutoConfig.for_model(kind, **options)


def _plain_config(config: Any) -> dict[str, Any]:
    made: dict[str, Any] = _harmless(json.loads(config.to_json_string(use_diff=False)))
    return made


def _harmless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _harmless(part)
            for name, part in value.items()
            if name not in _NEVER and not str(name).startswith("_")
        }
    return [_harmless(part) for part in value] if isinstance(value, list | tuple) else value
