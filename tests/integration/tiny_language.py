"""Models of language of a few kilobytes, made on the spot: random weights, real layouts."""

import json
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


def of_bytes() -> Any:
    """The inner tokenizer: any text comes back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
    return inner


def a_tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=of_bytes(), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


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


def save_llama(directory: Path) -> None:
    """Written by hand, since that spares each process that only serves it the import of all that
    transformers needs to make one."""
    from safetensors.torch import save_file

    wide, inner, words, kept = SIZE["hidden_size"], SIZE["intermediate_size"], 300, 16
    shapes = {
        "model.embed_tokens": (words, wide),
        "model.norm": (wide,),
        "lm_head": (words, wide),
    }
    for at in range(SIZE["num_hidden_layers"]):
        shapes |= {
            f"model.layers.{at}.{name}": shape
            for name, shape in {
                "input_layernorm": (wide,),
                "post_attention_layernorm": (wide,),
                "self_attn.q_proj": (wide, wide),
                "self_attn.k_proj": (kept, wide),
                "self_attn.v_proj": (kept, wide),
                "self_attn.o_proj": (wide, wide),
                "mlp.gate_proj": (inner, wide),
                "mlp.up_proj": (inner, wide),
                "mlp.down_proj": (wide, inner),
            }.items()
        }
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"{name}.weight": torch.randn(shape, generator=generator) * 0.3
        if len(shape) > 1
        else torch.ones(shape)
        for name, shape in shapes.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    config = {
        **SIZE,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": words,
        "num_key_value_heads": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (directory / "config.json").write_text(json.dumps(config))
    of_bytes().save(str(directory / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
