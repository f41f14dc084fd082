"""Examples as tokens: what is read, and which of them are to be predicted.

Shape letters: N examples, T tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest
from leptonai.training.losses import IGNORED

Row = Mapping[str, Any]
PROMPT, COMPLETION, TEXT, MESSAGES = "prompt", "completion", "text", "messages"
FORMS = f"{MESSAGES}, {PROMPT} and {COMPLETION}, or {TEXT}"


class Example(NamedTuple):
    """Tokens, and from which on they are to be predicted: those of a prompt are given."""

    tokens: list[int]
    given: int


class Examples(NamedTuple):
    inputs: NDArray[np.int64]  # [N, T], padded at the end, where nothing is predicted
    targets: NDArray[np.int64]  # [N, T], the token after each, or `IGNORED`
    cut: int  # examples that were longer


class Tokenise(NamedTuple):
    """What is used of a tokenizer."""

    encode: Callable[[str], list[int]]  # without special tokens
    chat: Callable[[Sequence[Mapping[str, str]], bool], list[int]] | None  # and whether to answer
    begin: list[int]
    end: list[int]
    padding: int


def example_of(row: Row, tokenise: Tokenise, columns: Mapping[str, str]) -> Example:
    """
    Raises:
        InvalidRequest: the row is of no form that is known; says what it has.
    """
    found = {
        name: row.get(columns.get(name, name)) for name in (MESSAGES, PROMPT, COMPLETION, TEXT)
    }
    if found[MESSAGES] is not None:
        return _of_messages(found[MESSAGES], tokenise)
    if found[PROMPT] is not None and found[COMPLETION] is not None:
        prompt = tokenise.begin + tokenise.encode(_text(found[PROMPT], PROMPT))
        answer = tokenise.encode(_text(found[COMPLETION], COMPLETION)) + tokenise.end
        return Example(prompt + answer, len(prompt))
    if found[TEXT] is not None:
        tokens = tokenise.begin + tokenise.encode(_text(found[TEXT], TEXT)) + tokenise.end
        return Example(tokens, min(len(tokenise.begin), 1) or 1)
    raise InvalidRequest(
        f"a row has {', '.join(map(str, row)) or 'nothing'}; expected {FORMS}",
        hint="column_mapping says which column is which: question for prompt",
    )


def pack(
    rows: Iterable[Row], tokenise: Tokenise, columns: Mapping[str, str], longest: int
) -> Examples:
    """
    Args:
        longest: tokens of an example; of a longer one the end is cut.

    Raises:
        InvalidRequest: a row is none, says which; or no example has anything to predict.
    """
    made, cut = [], 0
    for number, example in enumerate(_examples(rows, tokenise, columns), start=1):
        cut += len(example.tokens) > longest
        tokens = example.tokens[:longest]
        if len(tokens) > example.given:
            made.append(Example(tokens, example.given))
        elif len(example.tokens) <= longest:
            raise InvalidRequest(f"row {number} has nothing to predict", hint="leave it out")
    if not made:
        raise InvalidRequest(
            "no example has anything to predict"
            + (f" in its first {longest} tokens" if cut else ""),
            hint="give more data, or raise max_tokens",
        )
    width = max(len(each.tokens) for each in made) - 1
    inputs_NT = np.full((len(made), width), tokenise.padding, np.int64)
    targets_NT = np.full((len(made), width), IGNORED, np.int64)
    for row_N, each in enumerate(made):
        count = len(each.tokens) - 1
        inputs_NT[row_N, :count] = each.tokens[:-1]
        targets_NT[row_N, each.given - 1 : count] = each.tokens[each.given :]
    return Examples(inputs_NT, targets_NT, cut)


def _examples(
    rows: Iterable[Row], tokenise: Tokenise, columns: Mapping[str, str]
) -> Iterator[Example]:
    for number, row in enumerate(rows, start=1):
        try:
            yield example_of(row, tokenise, columns)
        except InvalidRequest as refused:
            raise InvalidRequest(f"row {number}: {refused.message}", hint=refused.hint) from None


def _of_messages(messages: Any, tokenise: Tokenise) -> Example:
    """The last message, which has to be the assistant's, is what is predicted."""
    if tokenise.chat is None:
        raise InvalidRequest(
            "the tokenizer has no chat template, so it takes no messages",
            hint=f"give {PROMPT} and {COMPLETION}, or {TEXT}",
        )
    known = isinstance(messages, list) and all(
        isinstance(each, Mapping) and {"role", "content"} <= each.keys() for each in messages
    )
    if not known or not messages or messages[-1]["role"] != "assistant":
        raise InvalidRequest(
            "messages have to be a list of objects with role and content, and the last one the "
            "assistant's",
            hint='[{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]',
        )
    whole, asked = tokenise.chat(messages, False), tokenise.chat(messages[:-1], True)
    if whole[: len(asked)] == asked:
        return Example(whole, len(asked))
    # A template that writes the question otherwise once it has its answer.
    same = next(
        (at for at, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b), len(asked)
    )
    return Example(whole, max(same, 1))


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{column} is no text", hint="leave such rows out")
    return value
