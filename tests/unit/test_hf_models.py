"""Models of Hugging Face: weights are taken, code never. All of it without a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from leptonai.errors import InvalidRequest, NotFound
from leptonai.training.models import HFModel, load_model

transformers = pytest.importorskip("transformers", reason="needs the extra hf: transformers")

TOKENS = np.random.default_rng(0).integers(1, 30, (64, 6))
HAS_SEVEN = (TOKENS == 7).any(1).astype(np.int64)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def a_bert(**changes: Any) -> Any:
    options = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
        "num_labels": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return transformers.BertConfig(**{**options, **changes})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(a_bert()).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_directory_is_opened_and_computes_what_transformers_computes(directory: Path) -> None:
    assert (directory / "model.safetensors").exists()
    model = HFModel(directory, task="text-classification")
    theirs = transformers.BertForSequenceClassification.from_pretrained(directory).eval()
    tokens = torch.from_numpy(TOKENS[:3])
    assert torch.equal(model(tokens), theirs(tokens).logits)
    assert model.classes == ("LABEL_0", "LABEL_1")


def test_its_layers_are_its_blocks() -> None:
    model = HFModel(architecture=a_bert(num_hidden_layers=3).to_dict(), task="fill-mask")
    assert [type(block).__name__ for block in model.plan().blocks].count("BertLayer") == 3


def test_padding_is_not_read(directory: Path) -> None:
    model = HFModel(directory, task="text-classification")
    alone = model(torch.tensor([[4, 5]]))
    torch.testing.assert_close(model(torch.tensor([[4, 5, 0, 0]])), alone)


def test_it_learns_and_is_saved_like_the_others(directory: Path, tmp_path: Path) -> None:
    model = HFModel(directory, task="text-classification")
    before = model.evaluate((TOKENS, HAS_SEVEN))
    model.fit((TOKENS, HAS_SEVEN), 25, 16, learning_rate=3e-3, quiet=True)
    assert model.evaluate((TOKENS, HAS_SEVEN)).loss < before.loss / 2
    for name in ("model.pth", "model"):
        model.save(tmp_path / name)
        again = load_model(tmp_path / name)
        assert isinstance(again, HFModel)
        assert json.loads(json.dumps(again.config())) == again.config() == model.config()
        assert np.array_equal(again.predict(TOKENS), model.predict(TOKENS))


def test_tied_weights_stay_one(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=30,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    torch.manual_seed(0)
    model = HFModel(architecture=config.to_dict(), task="text-generation")
    before = model.evaluate(TOKENS % 3)
    model.fit(TOKENS % 3, 3, 16, learning_rate=1e-2, quiet=True)
    assert model.evaluate(TOKENS % 3).loss < before.loss / 2
    model.save(tmp_path / "m.pth")
    again: Any = load_model(tmp_path / "m.pth")
    assert again.inside.lm_head.weight is again.inside.transformer.wte.weight
    assert np.array_equal(again.predict(TOKENS), model.predict(TOKENS))


def test_another_number_of_classes_gives_a_new_last_layer(directory: Path) -> None:
    model = HFModel(directory, task="text-classification", num_classes=5)
    assert model(torch.from_numpy(TOKENS[:2])).shape == (2, 5)


def test_texts_become_tokens_by_the_models_own_tokenizer(directory: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (directory / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    model = HFModel(directory, task="text-classification")
    tokens = model.tokenise(["good", "bad good"])["input_ids"].tolist()
    assert tokens == [[2, 5, 3, 0], [2, 6, 5, 3]]
    data = [("good", 1), ("bad", 0)] * 8
    model.fit(data, 15, 8, learning_rate=3e-3, quiet=True)
    assert model.evaluate(data).accuracy == 1
    assert model.predict(["good", "bad"]).argmax(1).tolist() == [1, 0]


def test_code_beside_the_weights_is_never_run(directory: Path, tmp_path: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    trap = f"open({str(tmp_path / 'was here')!r}, 'w')\n"
    (directory / "evil.py").write_text(trap + "class Evil: ...\nclass Config: ...\n")
    config |= {
        "model_type": "evil",
        "auto_map": {
            "AutoConfig": "evil.Config",
            "AutoModelForSequenceClassification": "evil.Evil",
        },
    }
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match="is no text-classification model"):
        HFModel(directory, task="text-classification")
    config["model_type"] = "bert"
    (directory / "config.json").write_text(json.dumps(config))
    assert "auto_map" not in json.dumps(HFModel(directory, task="text-classification").config())
    assert not (tmp_path / "was here").exists()


def test_weights_in_a_pickle_are_refused(directory: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="no text-classification model with safetensors"):
        HFModel(directory, task="text-classification")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "dreaming", "architecture": {}}, "the task to be one of|task to be one of"),
        ({"task": "fill-mask"}, "a source or an architecture, and not both"),
        ({"task": "fill-mask", "architecture": {}}, "an architecture with a model_type"),
        ({"task": "fill-mask", "architecture": {"model_type": "nope"}}, "is no fill-mask model"),
        (
            {
                "task": "fill-mask",
                "architecture": {"model_type": "bert", "quantization_config": {"bits": 4}},
            },
            "quantised",
        ),
        (
            {
                "task": "fill-mask",
                "architecture": {"model_type": "bert", "num_hidden_layers": 10**9},
            },
            "num_hidden_layers from 0 to 1024",
        ),
    ],
)
def test_what_cannot_be_opened_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        HFModel(**options)


def test_a_directory_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises((NotFound, InvalidRequest), match="nowhere"):
        HFModel(tmp_path / "nowhere", task="fill-mask")


def test_without_a_tokenizer_texts_are_refused() -> None:
    model = HFModel(architecture=a_bert().to_dict(), task="text-classification")
    with pytest.raises(InvalidRequest, match="has no tokenizer, so it takes tokens"):
        model(["a text"])
