"""A causal language model of `transformers`, with adapters or without, as the Trainer takes one."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from leptonai.errors import InvalidRequest, NotFound, first_line
from leptonai.spec.finetuning import TrainConfig
from leptonai.training.finetuning.examples import Tokenise
from leptonai.training.losses import cross_entropy


class Learner(nn.Module):
    """Tokens [B, T] to scores [B, T, V]; padding comes last, where a causal model sees it never."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, tokens_BT: Tensor) -> Tensor:
        scores_BTV: Tensor = self.inside(input_ids=tokens_BT.long(), use_cache=False).logits
        return scores_BTV

    def loss(self, scores_BTV: Tensor, targets_BT: Tensor) -> Tensor:
        return cross_entropy(scores_BTV, targets_BT)


def load(source: str, config: TrainConfig) -> tuple[Learner, Any]:
    """The model that learns, and its tokenizer. Code that comes with a model is never run.

    Raises:
        NotFound, InvalidRequest: there is none, or it is none that can learn so.
    """
    transformers = _needed("transformers")
    transformers.utils.logging.disable_progress_bar()  # for a moment's work, in everybody's log
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        inside = transformers.AutoModelForCausalLM.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except OSError as error:
        raise NotFound(
            f"there is no language model with safetensors and a tokenizer at {source}: "
            f"{first_line(error)}",
            hint="it needs config.json, model.safetensors and tokenizer.json",
        ) from error
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise InvalidRequest(
            f"{source} is no causal language model: {first_line(error)}",
            hint="models that bring code of their own are never run",
        ) from error
    if config.technique == "lora":
        peft = _needed("peft")
        lora = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules="all-linear",  # but the last layer
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(config.seed)  # all ranks begin with the same adapters
        inside = peft.get_peft_model(inside, lora)
    return Learner(inside), tokenizer


def merged(learner: Learner) -> Any:
    """The model alone: what its adapters learnt is in its weights."""
    inside = learner.inside
    if hasattr(inside, "merge_and_unload"):
        inside = inside.merge_and_unload(safe_merge=True)
    return inside.eval()


def tokenise_with(tokenizer: Any) -> Tokenise:
    """What examples are made with."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = end[0] if end else 0

    def encode(text: str) -> list[int]:
        return [*tokenizer(text, add_special_tokens=False)["input_ids"]]

    def chat(messages: Any, answer: bool) -> list[int]:
        try:
            text = tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer
            )
        except Exception as wrong:  # whatever a template may raise
            raise InvalidRequest(
                f"the chat template refuses these messages: {first_line(wrong)}",
                hint="roles have to come as the model knows them",
            ) from None
        return encode(text)

    return Tokenise(encode, chat if tokenizer.chat_template else None, begin, end, padding)


def read_config(text: str) -> TrainConfig:
    """
    Raises:
        InvalidRequest: says which field is wrong.
    """
    try:
        return msgspec.json.decode(text.encode(), type=TrainConfig)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the configuration: {error}",
            hint="see `python -m leptonai.training.finetuning --schema`",
        ) from None


def save(learner: Learner, tokenizer: Any, directory: Path) -> None:
    """As `transformers` reads them."""
    merged(learner).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _needed(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise InvalidRequest(
            f"fine-tuning needs the library {name}, which is not installed",
            hint='pip install "openlepton[finetune]"',
        ) from None
