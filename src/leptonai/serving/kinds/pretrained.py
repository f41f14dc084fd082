"""Directories in the layout of Hugging Face's hub: read with `transformers`, from this disk alone.

No code that lies beside the weights is run, weights are safetensors, and nothing is fetched.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from leptonai.errors import InvalidRequest, first_line
from leptonai.serving.kinds.opening import not_installed
from leptonai.serving.kinds.recognising import CONFIG_FILE, read_json
from leptonai.training.models import checks

Task = Literal["generation", "embedding", "text-classification", "image-classification"]

_BY_ENDING: dict[str, Task] = {
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
    "ForMaskedLM": "embedding",
    "Model": "embedding",
}
_AUTO_CLASS: dict[Task, str] = {
    "generation": "AutoModelForCausalLM",
    "embedding": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
MAX_CHARACTERS_OF_A_TOKEN = 256
MAX_TOKENS = 1 << 20  # of one input, where neither model nor tokenizer says less
# Without any of them transformers would make a tokenizer that knows nothing.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
MODULES_FILE = "modules.json"  # of sentence-transformers: how its tokens become one embedding
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# Not saved by models that are asked for their tokens alone; embeddings do not need it.
_SPARE = ("pooler.",)


def task_of(directory: Path) -> Task:
    """
    Raises:
        InvalidRequest: what it does is not served without code.
    """
    if (directory / MODULES_FILE).is_file():
        return "embedding"
    named = read_json(directory / CONFIG_FILE).get("architectures") or []
    for name in named:
        for ending, task in _BY_ENDING.items():
            if str(name).endswith(ending) and not str(name).endswith("EncoderDecoderModel"):
                return task
    raise InvalidRequest(
        f"the model in {directory} is one of {', '.join(map(str, named)) or 'no architecture'}, "
        "which is not served without code",
        hint="served are models that write texts, embed them, or classify texts or images; for "
        "others write a Photon",
    )


def library(directory: Path) -> Any:
    os.environ.update(OFFLINE)  # read when it is imported
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        not_installed("transformers", "hf", directory)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def load(directory: Path, task: Task) -> Any:
    """The model, on the GPU if there is one, in evaluation mode.

    Raises:
        InvalidRequest: it cannot be loaded, or only with code of its own.
    """
    transformers = library(directory)
    _check_config(read_json(directory / CONFIG_FILE), directory)
    on_gpu = torch.cuda.is_available()
    try:
        model, told = getattr(transformers, _AUTO_CLASS[task]).from_pretrained(
            directory,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype="auto" if on_gpu else torch.float32,
        )
    except Exception as wrong:  # whatever a damaged directory makes it raise
        raise _unreadable(directory, wrong) from wrong
    missing = [name for name in told["missing_keys"] if not name.startswith(_SPARE)]
    if missing or told["mismatched_keys"]:
        names = sorted(map(str, missing)) or sorted(map(str, told["mismatched_keys"]))
        raise InvalidRequest(
            f"the weights in {directory} are not those of its config.json: {names[0]} and "
            f"{len(names) - 1} others are missing or of other shapes",
            hint="save the model again",
        )
    return model.to("cuda" if on_gpu else "cpu").eval()


def load_tokenizer(directory: Path) -> Any:
    transformers = library(directory)
    try:
        if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
            raise FileNotFoundError(f"it has none of {', '.join(_TOKENIZER_FILES)}")
        return transformers.AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as wrong:
        raise InvalidRequest(
            f"{directory} has no tokenizer that can be read: {first_line(wrong)}",
            hint="tokenizer.save_pretrained(DIRECTORY) writes one beside the model",
        ) from wrong


def longest_input(model: Any, tokenizer: Any) -> int:
    """Tokens that it reads at once."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
    found = next((n for name in names if isinstance(n := getattr(config, name, None), int)), None)
    # Positions of models like RoBERTa begin behind the one of padding.
    if found is not None and config.model_type in ("roberta", "xlm-roberta", "camembert"):
        found -= (config.pad_token_id or 0) + 1
    said = tokenizer.model_max_length  # a huge number where it does not know
    return int(min(found or said, said, MAX_TOKENS))


def check_length(text: str, longest: int) -> None:
    """So that nothing is made tokens of that can only be too long.

    Raises:
        InvalidRequest: it has more characters than so many tokens can.
    """
    if len(text) > longest * MAX_CHARACTERS_OF_A_TOKEN:
        raise InvalidRequest(
            f"a text has {len(text)} characters, and the model reads {longest} tokens at most"
        )


def _check_config(config: dict[str, Any], directory: Path) -> None:
    for name, value in config.items():
        if "layers" in name and isinstance(value, int):
            checks.whole(name, value, 0, checks.MAX_LAYERS)
    if config.get("quantization_config"):
        raise InvalidRequest(
            f"the model in {directory} is quantised, which transformers alone does not read here",
            hint="serve it with --engine vllm, or take the one that is not quantised",
        )
    attention = config.get("_attn_implementation", config.get("attn_implementation"))
    if isinstance(attention, str) and "/" in attention:
        raise InvalidRequest(
            f"the config.json in {directory} names code to be fetched: {attention}",
            hint="remove its attn_implementation",
        )


def _unreadable(directory: Path, wrong: Exception) -> InvalidRequest:
    said = first_line(wrong)
    if "trust_remote_code" in str(wrong) or "custom code" in str(wrong):
        return InvalidRequest(
            f"the model in {directory} brings code of its own, which is never run",
            hint="use one whose code is part of transformers, or write a Photon",
        )
    return InvalidRequest(
        f"the model in {directory} cannot be loaded: {said}",
        hint="save it again with save_pretrained, or update transformers where it is served",
    )
