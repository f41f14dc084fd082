"""Models of language of a few kilobytes, made on the spot: random weights, real layouts."""

from pathlib import Path
from typing import Any

import torch

WORDS = ["hello world", "the cat sat on the mat", "grüße 🙂", "system: user: assistant: "]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ message.role }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def a_tokenizer(*, chats: bool = True) -> Any:
    """Of bytes: any text comes back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(WORDS, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chats:
        made.chat_template = TEMPLATE
    return made


def strengthened(model: Any) -> Any:
    """Weights so large that the likeliest token stands out, and rounding does not choose it."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def a_llama(**options: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    chosen = {
        **SIZE,
        "vocab_size": 300,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return strengthened(LlamaForCausalLM(LlamaConfig(**{**chosen, **options})))


def save_llama(directory: Path, *, chats: bool = True) -> Any:
    """Returns the model."""
    model, tokenizer = a_llama(), a_tokenizer(chats=chats)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model
