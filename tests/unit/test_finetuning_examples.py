"""Examples of a fine-tuning as tokens: what is given, what is to be predicted, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest
from leptonai.spec.finetuning import TrainConfig, schema
from leptonai.training.finetuning.examples import Example, Tokenise, example_of, pack
from leptonai.training.losses import IGNORED

BEGIN, END, PADDING = 1, 2, 0


def encode(text):
    return [100 + ord(letter) for letter in text]


def chat(messages, answer):
    text = "".join(f"<{each['role'][0]}>{each['content']}" for each in messages)
    return encode(text + ("<a>" if answer else ""))


TOKENS = Tokenise(encode, chat, [BEGIN], [END], PADDING)
QUESTION = {"role": "user", "content": "2+2"}
ANSWER = {"role": "assistant", "content": "4"}


def test_a_prompt_is_given_and_its_completion_predicted():
    example = example_of({"prompt": "ab", "completion": "c"}, TOKENS, {})
    assert example == Example([BEGIN, *encode("abc"), END], 3)
    renamed = {"prompt": "question", "completion": "answer"}
    assert example_of({"question": "ab", "answer": "c"}, TOKENS, renamed) == example


def test_all_of_a_text_is_predicted_but_its_first_token():
    assert example_of({"text": "ab"}, TOKENS, {}) == Example([BEGIN, *encode("ab"), END], 1)


def test_the_last_message_is_predicted():
    example = example_of({"messages": [QUESTION, ANSWER]}, TOKENS, {})
    assert example.tokens[example.given :] == encode("4")
    assert example.tokens[: example.given] == encode("<u>2+2<a>")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "expected messages"),
        ({"prompt": "a"}, "expected messages"),
        ({"prompt": "a", "completion": 3}, "completion is no text"),
        ({"text": ""}, "text is no text"),
        ({"messages": "hi"}, "list of objects"),
        ({"messages": []}, "list of objects"),
        ({"messages": [QUESTION]}, "the last one the assistant's"),
        ({"messages": [{"role": "assistant"}]}, "list of objects"),
    ],
)
def test_a_row_of_no_known_form_is_refused_with_its_number(row, words):
    with pytest.raises(InvalidRequest, match=f"row 2: .*{words}"):
        pack([{"text": "fine"}, row], TOKENS, {}, 100)


def test_messages_need_a_chat_template():
    with pytest.raises(InvalidRequest, match="no chat template"):
        pack([{"messages": [QUESTION, ANSWER]}], TOKENS._replace(chat=None), {}, 100)


def test_what_is_longer_is_cut_and_what_is_then_empty_left_out():
    rows = [{"prompt": "abcdef", "completion": "g"}, {"prompt": "a", "completion": "bcdef"}]
    packed = pack(rows, TOKENS, {}, 4)
    assert packed.cut == 2
    assert packed.inputs.tolist() == [[BEGIN, *encode("ab")]]
    assert packed.targets.tolist() == [[IGNORED, *encode("bc")]]
    with pytest.raises(InvalidRequest, match="in its first 4 tokens"):
        pack(rows[:1], TOKENS, {}, 4)
    with pytest.raises(InvalidRequest, match="nothing to predict"):
        pack([{"text": "a"}], TOKENS._replace(begin=[], end=[]), {}, 100)


pairs = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=9), st.text("xyz", min_size=1, max_size=9)),
    min_size=1,
)


@given(pairs=pairs)
def test_each_completion_is_predicted_once_token_by_token(pairs):
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    packed = pack(rows, TOKENS, {}, 1_000)
    assert packed.inputs.shape == packed.targets.shape
    for inputs, targets, (prompt, completion) in zip(
        packed.inputs, packed.targets, pairs, strict=True
    ):
        predicted = targets != IGNORED
        assert targets[predicted].tolist() == [*encode(completion), END]
        whole = [BEGIN, *encode(prompt + completion), END]
        assert inputs[: len(whole) - 1].tolist() == whole[:-1]
        assert (inputs[len(whole) - 1 :] == PADDING).all()
        at = np.flatnonzero(predicted)
        assert [whole[place + 1] for place in at] == targets[at].tolist()


def test_the_schema_is_one_object_that_options_are_made_of():
    told = schema()
    assert told["required"] == ["model_uri", "train_dataset_uri"]
    assert {"integer", "number", "string", "object"} >= {
        each["type"] for each in told["properties"].values() if "type" in each
    }
    assert set(told["properties"]) == set(TrainConfig.__struct_fields__)
