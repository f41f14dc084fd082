"""`Tokenise`: texts as numbers, by a vocabulary that the training texts taught.

Shape letters: B texts, T tokens of a text.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Batch, Form, Learnt, Step, Training
from leptonai.data.pipeline.texts.cleaning import checked
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING, UNKNOWN, *_ = SPECIAL = ("[PAD]", "[UNK]", "[BEGIN]", "[END]")  # 0, 1, 2, 3
PADDINGS = (PADDING, "<pad>", "<|pad|>", "<|endoftext|>")  # as tokenizers of others call it

LEAST_VOCABULARY = 512  # BPE knows each byte
MOST_VOCABULARY = 1 << 20
MOST_TOKENS = 1 << 20  # of a text
MOST_LETTERS = 4_096  # that WordPiece knows; what is rarer is unknown
MAX_FILE_BYTES = 64 << 20
READY_TOKENIZERS = 16
UNIGRAM_DIGITS = 4  # that are the same however the sums are added up


class Tokenise(Step, frozen=True, kw_only=True, tag="tokenise"):
    """int32 [B, T]: each text cut or padded to `max_length` tokens.

    Token 0 is the padding, unless a given tokenizer has another one (`padding` of what was learnt).
    So the mask of what a model may attend to is ``tokens != 0``. What a text says never becomes a
    special token, not even if it says "[END]".
    """

    takes: ClassVar[Form] = "texts"
    gives: ClassVar[Form] = "tokens"

    # bpe: of bytes; every text can be written with it, and read back. wordpiece, unigram: parts of
    # words. wordlevel: whole words, and the rest is unknown.
    method: Literal["bpe", "wordpiece", "unigram", "wordlevel"] = "bpe"
    vocabulary: int = 8_000  # at the most, special tokens included
    least_count: int = 2  # how often what is to be a token must be there
    max_length: int | None = 256  # None: of each text all
    pad: Literal["max_length", "longest"] = "max_length"  # longest: of the batch
    begin_and_end: bool = False  # with a token before and after each text
    tokenizer: str | None = None  # what a tokenizer.json says; nothing is learnt then

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> "Tokenise":
        """With the tokenizer that a tokenizer.json describes."""
        file = Path(path)
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise InvalidRequest(f"{path} is larger than {MAX_FILE_BYTES} bytes")
            return cls(tokenizer=file.read_text("utf-8"), **options)
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path} cannot be read: {error}") from None

    def __post_init__(self) -> None:
        least = 3 if self.begin_and_end else 1
        for name, value, low, high in (
            ("vocabulary", self.vocabulary, LEAST_VOCABULARY, MOST_VOCABULARY),
            ("least_count", self.least_count, 1, 1 << 31),
            (
                "max_length",
                least if self.max_length is None else self.max_length,
                least,
                MOST_TOKENS,
            ),
        ):
            if not low <= value <= high:
                raise InvalidRequest(f"{name} is a number from {low} to {high}, not {value}")
        if self.method not in _TRAIN:
            raise InvalidRequest(f"{self.method!r} is none of {', '.join(_TRAIN)}")
        if self.pad == "max_length" and self.max_length is None:
            raise InvalidRequest(
                "texts cannot be padded to no max_length", hint='pad="longest", or a max_length'
            )

    def fit(self, training: Training) -> Learnt:
        """Equal texts in equal order teach equal vocabularies; unigram ones nearly equal: its
        trainer adds up in the order of a hash table whose seed cannot be set, and a few pieces may
        differ. What is fitted gives equal tokens everywhere: keep it, and do not fit it again."""
        if self.tokenizer is not None:
            tokenizer, written = _parsed(self.tokenizer), {}
        else:
            tokenizer = _TRAIN[self.method](self, _Texts(training))
            padding, _, begin, end = (tokenizer.id_to_token(number) for number in range(4))
            tokenizer.enable_padding(pad_id=0, pad_token=padding)
            tokenizer.post_processor = _library().processors.TemplateProcessing(
                single=[begin, "$A", end],
                pair=[begin, "$A", end, "$B", end],
                special_tokens=[(begin, 2), (end, 3)],
            )
            written = {"tokenizer": tokenizer.to_str()}
        size = tokenizer.get_vocab_size()
        return Learnt({**written, "vocabulary": size, "padding": _padding_of(tokenizer)})

    def transform(
        self, batch: Batch, learnt: Learnt, chance: Chance | None = None
    ) -> "NDArray[np.int32]":
        texts = checked(batch)
        if not texts:
            return np.zeros((0, self.max_length or 0), np.int32)
        tokenizer = self._ready(learnt)
        try:
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=self.begin_and_end)
        except Exception as error:  # the library raises nothing more exact
            raise InvalidRequest(f"the tokenizer cannot encode it: {error}") from None
        return np.array([each.ids for each in encoded], np.int32)

    def texts(self, tokens_BT: "NDArray[Any]", learnt: Learnt) -> list[str]:
        """Read back, without the special tokens."""
        tokenizer = self._ready(learnt)
        return list(tokenizer.decode_batch(tokens_BT.tolist(), skip_special_tokens=True))

    def _ready(self, learnt: Learnt) -> Any:
        written = self.tokenizer if self.tokenizer is not None else learnt.fact("tokenizer", str)
        return _ready(written, self.max_length, self.pad, learnt.fact("padding", int))


class _Texts:
    """The training texts, as often as they are asked for."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def __iter__(self) -> Iterator[list[str]]:
        some = False
        for batch in self._training():
            texts = checked(batch)
            some = some or any(texts)
            yield texts
        if not some:
            raise InvalidRequest("there is no text to learn from", hint="check the training part")

    def letters(self, most: int) -> list[str]:
        """The most frequent ones, in the order of their codes."""
        counts: Counter[str] = Counter()
        for texts in self:
            for text in texts:
                counts.update(text)
        found = sorted(
            (letter for letter in counts if not letter.isspace()),
            key=lambda letter: (-counts[letter], letter),
        )
        return sorted(found[:most])


def _bpe(step: Tokenise, texts: _Texts) -> Any:
    """Source: Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with Subword
    Units"; over bytes as Radford et al. 2019 (GPT-2) do it."""
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        **_asked(step), initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wordpiece(step: Tokenise, texts: _Texts) -> Any:
    """Source: Schuster, Nakajima 2012; with punctuation apart, as Devlin et al. 2019 (BERT) do."""
    library = _library()
    learner = library.Tokenizer(library.models.WordPiece(unk_token=UNKNOWN))
    learner.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    # The trainer numbers letters inside of words in the order of a hash table, and what it learns
    # depends on these numbers: so it is told all of them, in order, before.
    letters = texts.letters(min(MOST_LETTERS, step.vocabulary // 4))
    asked = _asked(step)
    asked["special_tokens"] = [*SPECIAL, *(f"##{letter}" for letter in letters)]
    trainer = library.trainers.WordPieceTrainer(
        **asked, initial_alphabet=letters, limit_alphabet=len(letters)
    )
    learner.train_from_iterator(texts, trainer)
    vocabulary = dict(sorted(learner.get_vocab().items(), key=lambda entry: entry[1]))
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = library.decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _unigram(step: Tokenise, texts: _Texts) -> Any:
    """Source: Kudo 2018, "Subword Regularization"."""
    library = _library()
    learner = library.Tokenizer(library.models.Unigram())
    learner.pre_tokenizer = library.pre_tokenizers.Metaspace()
    asked = _asked(step)
    del asked["min_frequency"]  # it weighs what is rare by itself
    try:
        trainer = library.trainers.UnigramTrainer(**asked, unk_token=UNKNOWN)
        learner.train_from_iterator(texts, trainer)
    except InvalidRequest:
        raise
    except Exception as error:  # the library raises nothing more exact
        raise InvalidRequest(
            f"unigram cannot be trained: {error}", hint='a larger vocabulary, or method="bpe"'
        ) from None
    # The trainer adds up in the order of a hash table, so the last digits differ each time, and
    # with them the order of what is equally probable.
    pieces = json.loads(learner.to_str())["model"]["vocab"]
    scores = {piece: round(score, UNIGRAM_DIGITS) for piece, score in pieces}
    learnt = sorted(
        (entry for entry in scores.items() if entry[0] not in SPECIAL),
        key=lambda entry: (-entry[1], entry[0]),
    )
    # It finds its pieces in any text, special ones too: so these hold a space, which no text has
    # left when it comes to that.
    special = [f"{name} " for name in SPECIAL]
    vocabulary = [*((name, 0.0) for name in special), *learnt]
    tokenizer = library.Tokenizer(
        library.models.Unigram(vocabulary, unk_id=SPECIAL.index(UNKNOWN), byte_fallback=False)
    )
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = library.decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _wordlevel(step: Tokenise, texts: _Texts) -> Any:
    library = _library()
    tokenizer = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, library.trainers.WordLevelTrainer(**_asked(step)))
    return tokenizer


_TRAIN = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram, "wordlevel": _wordlevel}


def _asked(step: Tokenise) -> dict[str, Any]:
    return {
        "vocab_size": step.vocabulary,
        "min_frequency": step.least_count,
        "special_tokens": list(SPECIAL),
        "show_progress": False,
    }


@functools.lru_cache(READY_TOKENIZERS)
def _ready(written: str, max_length: int | None, pad: str, padding: int) -> Any:
    """Used by many threads at once, and changed by none."""
    tokenizer = _parsed(written)
    if max_length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length)
    name = tokenizer.id_to_token(padding) if 0 <= padding < MOST_VOCABULARY else None
    if name is None:
        raise InvalidRequest(f"the tokenizer has no token {padding} to pad with")
    length = max_length if pad == "max_length" else None
    tokenizer.enable_padding(pad_id=padding, pad_token=name, length=length)
    return tokenizer


def _parsed(written: str) -> Any:
    try:
        tokenizer = _library().Tokenizer.from_str(written)
    except Exception as error:  # the library raises nothing more exact
        raise InvalidRequest(
            f"not a tokenizer: {error}", hint="give the text of a tokenizer.json"
        ) from None
    tokenizer.encode_special_tokens = True  # as the text that they are
    return tokenizer


def _padding_of(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    for name in PADDINGS:
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    raise InvalidRequest(
        "the tokenizer has no token to pad with", hint=f"add one to it, say {PADDING}"
    )


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.processors
        import tokenizers.trainers
    except ImportError:
        raise InvalidRequest(
            "Tokenise needs the package tokenizers, which is not installed",
            hint="pip install 'openlepton[data]'",
        ) from None
    return tokenizers
