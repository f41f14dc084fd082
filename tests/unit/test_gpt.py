"""The decoder: what it may read, what it remembers, and how it goes on."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest
from leptonai.training.models import GPT

POSITIONS = ("rotary", "learned")
each_kind_of_position = pytest.mark.parametrize("positions", POSITIONS)


def a_gpt(positions: str = "rotary", **changes: object) -> GPT:
    torch.manual_seed(0)
    options = {"width": 16, "layers": 2, "heads": 4, "context": 24, "positions": positions}
    model = GPT(11, **{**options, **changes}).eval()  # type: ignore[arg-type]
    with torch.no_grad():  # larger than it begins with, so that choices differ
        for weight in model.parameters():
            weight.mul_(8)
    return model


MODELS = {positions: a_gpt(positions) for positions in POSITIONS}
some_tokens = torch.randint(11, (3, 20), generator=torch.Generator().manual_seed(0))


@each_kind_of_position
def test_no_token_is_scored_by_what_comes_after_it(positions: str) -> None:
    model = MODELS[positions]
    changed = some_tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 11
    assert torch.equal(model(some_tokens)[:, :12], model(changed)[:, :12])
    assert not torch.equal(model(some_tokens)[:, 12:], model(changed)[:, 12:])


@given(positions=st.sampled_from(POSITIONS), cuts=st.sets(st.integers(1, 19)))
@settings(deadline=None, max_examples=40)
def test_reading_in_pieces_with_a_cache_scores_as_reading_at_once(
    positions: str, cuts: set[int]
) -> None:
    model = MODELS[positions]
    bounds = [0, *sorted(cuts), 20]
    with torch.inference_mode():
        whole = model(some_tokens)
        cache = model.new_cache()
        pieces = [model(some_tokens[:, start:end], cache) for start, end in pairwise(bounds)]
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)


@given(
    positions=st.sampled_from(POSITIONS),
    prompt=st.lists(st.integers(0, 10), min_size=1, max_size=8),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.none() | st.integers(1, 20),
    top_p=st.none() | st.sampled_from([0.1, 0.9, 1.0]),
    seed=st.integers(0, 2**32),
    stop=st.none() | st.integers(0, 10),
)
@settings(deadline=None, max_examples=40)
def test_a_cache_changes_nothing_of_what_is_generated(
    positions: str,
    prompt: list[int],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: int | None,
) -> None:
    one, other = (
        MODELS[positions].generate(
            prompt,
            12,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    )
    assert one.tolist() == other.tolist()
    assert one[: len(prompt)].tolist() == prompt


def test_what_a_row_becomes_does_not_depend_on_the_rows_beside_it() -> None:
    model = MODELS["rotary"]
    together = model.generate(some_tokens[:, :5], 10, seed=4)
    alone = model.generate(some_tokens[:1, :5], 10, seed=4)
    assert together[:1].tolist() == alone.tolist()


def test_the_seed_decides_and_without_temperature_nothing_is_left_to_decide() -> None:
    model = MODELS["rotary"]
    drawn = {tuple(model.generate([1], 12, seed=seed).tolist()) for seed in range(5)}
    assert len(drawn) > 1
    likeliest = [model.generate([1], 12, seed=seed, temperature=0).tolist() for seed in range(3)]
    assert likeliest == [model.generate([1], 12, top_k=1).tolist()] * 3
    assert likeliest[0] == model.generate([1], 12, top_p=1e-6).tolist()


def test_draws_follow_the_scores() -> None:
    model = MODELS["rotary"]
    prompt = some_tokens[:1, :4]
    drawn = model.generate(prompt.expand(4000, -1), 1)[:, -1]
    expected = model(prompt)[0, -1].softmax(0)
    shares = torch.bincount(drawn, minlength=11) / 4000
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)


def test_a_row_that_has_ended_is_filled_up_with_its_end() -> None:
    model = MODELS["rotary"]
    free = model.generate(some_tokens[:, :4], 12, seed=1)
    stop = int(free[0, 6])
    stopped = model.generate(some_tokens[:, :4], 12, seed=1, stop=[stop])
    for row, whole in zip(stopped.tolist(), free.tolist(), strict=True):
        ends = [at for at in range(4, len(row)) if whole[at] == stop]
        end = ends[0] if ends else len(row)
        assert row == whole[:end] + [stop] * (len(row) - end)


def test_generating_leaves_a_model_that_trains_training_and_its_chance_alone() -> None:
    model = a_gpt(dropout=0.5).train()
    state = torch.get_rng_state()
    one, other = model.generate([1, 2], 5), model.generate([1, 2], 5)
    assert one.tolist() == other.tolist() and model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "from 1 to 24 tokens of a sequence, got 0"),
        ([11], {}, r"the tokens from 0 to 10, got 11 at \[0, 0\]"),
        ([1.5], {}, "the tokens as whole numbers"),
        ([1] * 20, {"max_new_tokens": 6}, "20 tokens and 6 new ones are more than .* 24"),
        ([1], {"temperature": -1.0}, "temperature of 0 or more"),
        ([1], {"temperature": float("nan")}, "temperature of 0 or more"),
        ([1], {"top_k": 0}, "top_k from 1"),
        ([1], {"top_p": 0.0}, "top_p above 0"),
        ([1], {"stop": 11}, "a token to stop at from 0 to 10"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens from 1 to 24"),
    ],
)
def test_what_it_cannot_go_on_from_is_refused(
    prompt: list[float], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        MODELS["rotary"].generate(prompt, **{"max_new_tokens": 2, **options})  # type: ignore[arg-type]


def test_more_tokens_than_its_context_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 24 tokens of a sequence, got 25"):
        MODELS["rotary"](torch.zeros((1, 25), dtype=torch.int64))


def test_the_published_shapes_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        sizes = {
            name: sum(weight.numel() for weight in GPT.preset(name).parameters())
            for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
        }
    assert sizes == {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }


def test_tied_weights_are_one_and_are_saved_once() -> None:
    tied, own = a_gpt(), a_gpt(tied=False)
    assert own.state_dict().keys() - tied.state_dict().keys() == {"head.weight"}


def test_it_computes_what_gpt2_computes() -> None:
    """Against another implementation, with the same weights in its order."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=24,
        bos_token_id=0,
        eos_token_id=0,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = a_gpt("learned")
    weights = {}
    for name, weight in theirs.transformer.state_dict().items():
        if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")):
            weight = weight.T  # theirs are of "Conv1D"
        if "c_attn" in name:  # query, key, value of all heads -> all three of each head
            weight = weight.unflatten(0, (3, 4, 4)).transpose(0, 1).flatten(0, 2)
        for before, after in (
            ("wte", "tokens"),
            ("wpe", "places"),
            ("h.", "blocks."),
            ("ln_1", "before_attention"),
            ("ln_2", "before_feed"),
            ("ln_f", "norm"),
            ("attn.c_attn", "attention.qkv"),
            ("attn.c_proj", "attention.out"),
            ("mlp.c_fc", "feed.up"),
            ("mlp.c_proj", "feed.down"),
        ):
            name = name.replace(before, after)
        weights[name] = weight
    ours.load_state_dict(weights)
    torch.testing.assert_close(ours(some_tokens), theirs(some_tokens).logits, atol=1e-5, rtol=1e-5)
