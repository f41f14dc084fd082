"""How fast texts are written together, and what a request costs beside the model itself.

``python -m benchmarks.language`` prints a table: tokens a second of our batches beside
`transformers`' own ``generate`` of the same batch, and the time of a request beside a direct pass.
A model of 6 layers of 384 with random weights, so that what is measured is no download.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from leptonai.serving.language.decoder import Decoder
from leptonai.serving.language.drawing import Sampling
from leptonai.serving.language.generating import Generator, Wish
from leptonai.serving.threads import Threads

LAYERS, WIDTH, VOCABULARY = 6, 384, 8_000
PROMPT, NEW = 32, 64  # tokens
ROUNDS = 3
GREEDY = Sampling(temperature=0.0)


def a_model(layers: int = LAYERS, width: int = WIDTH) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=width * 8 // 3,
        num_hidden_layers=layers, num_attention_heads=6, num_key_value_heads=6,
        max_position_embeddings=1_024,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def theirs(model: Any, prompts: Sequence[Sequence[int]], new: int = NEW) -> float:
    """Seconds of generate, of all of them as one batch."""
    given = torch.tensor(prompts)
    began = time.perf_counter()
    with torch.inference_mode():
        made = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=new, do_sample=False,
            eos_token_id=[], pad_token_id=0,
        )  # fmt: skip
    assert made.shape == (len(prompts), len(prompts[0]) + new)
    return time.perf_counter() - began


def ours(model: Any, prompts: Sequence[Sequence[int]], new: int = NEW) -> float:
    """Seconds of as many requests that come at once."""

    async def write() -> float:
        generator = Generator(Decoder(model), Threads(1, "bench"), lambda tokens: "a" * len(tokens))
        began = time.perf_counter()
        wish = [Wish(prompt=p, max_tokens=new, sampling=GREEDY, seed=0) for p in prompts]
        asked = [generator.begin([each], at) for at, each in enumerate(wish)]
        for texts in asked:
            while await texts.more():
                pass
        assert sum(texts.tokens for texts in asked) == new * len(prompts)
        return time.perf_counter() - began

    return asyncio.run(write())


def in_turns(first: Callable[[], float], second: Callable[[], float]) -> tuple[float, float]:
    """The medians of both, measured in turns, so that what else runs disturbs both alike."""
    first(), second()
    pairs = [(first(), second()) for _ in range(ROUNDS)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def of_a_request(directory: Path) -> tuple[float, float]:
    """Seconds of a completion of one token by our route, in process, and of the model's pass."""
    import httpx

    from leptonai.serving.app import App
    from leptonai.serving.language.decoder import Row
    from leptonai.serving.language.drawing import Drawing
    from leptonai.serving.language.server import WritingServer

    body = {"model": directory.name, "prompt": [5] * 8, "max_tokens": 1, "temperature": 0}

    async def measure() -> tuple[float, float]:
        server = WritingServer(directory)
        app = App(server)
        await app.init()
        route, direct = [], []
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench") as client:
            for _ in range(300):
                began = time.perf_counter()
                answer = await client.get("/healthz")
                empty = time.perf_counter() - began
                began = time.perf_counter()
                answer = await client.post("/v1/completions", json=body)
                route.append(time.perf_counter() - began - empty)  # without what httpx itself costs
                assert answer.status_code == 200, answer.text
                decoder = Decoder(server.writer.model)
                began = time.perf_counter()
                decoder.join([Row([5] * 8, Drawing(GREEDY, 0))])
                direct.append(time.perf_counter() - began)
        return statistics.median(route), statistics.median(direct)

    return asyncio.run(measure())


def save_small(directory: Path) -> None:
    """With a tokenizer of single characters."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    a_model(2, 96).save_pretrained(directory)
    vocabulary = {chr(0x4E00 + at): at for at in range(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    PreTrainedTokenizerFast(tokenizer_object=inner).save_pretrained(directory)


def main() -> None:
    torch.set_num_threads(1)
    model = a_model()
    print("| batch | generate, tokens/s | ours, tokens/s | ratio |\n| --- | --- | --- | --- |")
    for count in (1, 8, 32):
        prompts = [[(at * 7 + row) % VOCABULARY for at in range(PROMPT)] for row in range(count)]
        their_s, our_s = in_turns(
            lambda p=prompts: theirs(model, p), lambda p=prompts: ours(model, p)
        )
        tokens = count * NEW
        print(
            f"| {count} | {tokens / their_s:.0f} | {tokens / our_s:.0f} | {their_s / our_s:.2f} |"
        )
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "small"
        save_small(directory)
        route_s, direct_s = of_a_request(directory)
    print(f"\none request: {route_s * 1e6:.0f} µs, of which the model {direct_s * 1e6:.0f} µs")


if __name__ == "__main__":
    main()
