"""A small language model learns sums, with adapters and without, and is what it learnt when read
again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
torch = pytest.importorskip("torch")

from leptonai.spec.finetuning import TrainConfig  # noqa: E402
from leptonai.training.finetuning.learner import load, merged, save  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 140,000 weights that knows nothing yet, with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    where = tmp_path_factory.mktemp("base")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", "<pad>", *letters]
    tokens = Tokenizer(models.BPE({name: at for at, name in enumerate(names)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(where)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(config: object, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leptonai.training.finetuning", json.dumps(config), *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_model_learns_and_answers_when_it_is_read_again(
    base: Path, sums: Path, tmp_path: Path
) -> None:
    config = {
        "model_uri": str(base),
        "train_dataset_uri": str(sums),
        "validation_dataset_uri": str(sums),
        "column_mapping": {"prompt": "question", "completion": "answer"},
        "technique": "sft",
        "epochs": 60,
        "batch_size": 25,
        "learning_rate": 5e-3,
    }
    done = run(config, "--output", str(tmp_path / "tuned"))
    assert done.returncode == 0, done.stderr
    assert "25 examples" in done.stdout
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tuned")
    asked = tokenizer("<s>2+3=", return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(answer[0], skip_special_tokens=True) == "2+3=5"


def test_adapters_are_few_and_go_into_the_weights(base: Path, tmp_path: Path) -> None:
    config = TrainConfig(model_uri=str(base), train_dataset_uri="", lora_rank=4)
    learner, tokenizer = load(str(base), config)
    learning = {name for name, each in learner.named_parameters() if each.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    for name, each in learner.named_parameters():
        if name in learning:
            torch.nn.init.normal_(each, std=0.1)
    learner.eval()
    tokens = torch.randint(3, 200, (2, 9))
    with torch.inference_mode():
        expected = learner(tokens)
        save(learner, tokenizer, tmp_path / "merged")
        again, _ = load(str(tmp_path / "merged"), config)
        found = merged(again)(input_ids=tokens).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not [*(tmp_path / "merged").glob("adapter*")]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "required"),
        ({"model_uri": "m", "train_dataset_uri": "d", "lora_rnak": 3}, "lora_rnak"),
        ({"model_uri": "m", "train_dataset_uri": "d", "epochs": 0}, "epochs"),
        ({"model_uri": "/nowhere/at/all", "train_dataset_uri": "d"}, "nowhere"),
        ({"model_uri": "file:///nowhere", "train_dataset_uri": "d", "register_as": "a"}, "nowhere"),
        ({"model_uri": "m", "train_dataset_uri": "d", "register_as": "Not A Name"}, "Not A Name"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(
    config: object, words: str, tmp_path: Path
) -> None:
    done = run(config, *([] if "register_as" in str(config) else ["--output", str(tmp_path / "o")]))
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hint:" in done.stderr
