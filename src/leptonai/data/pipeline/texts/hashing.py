"""`HashTexts`: texts as a matrix, without a vocabulary to learn."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Batch, Form, Learnt, Step
from leptonai.data.pipeline.texts.cleaning import checked
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COLUMNS = 1 << 20
MOST_WORDS = 8


class HashTexts(Step, frozen=True, tag="hash_texts"):
    """float32 [B, `columns`]: words, and sequences of up to `words` of them, counted in columns
    that a hash chooses; each row of length 1, or 0 without words. B * columns * 4 bytes.

    Source: Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
    """

    takes: ClassVar[Form] = "texts"
    gives: ClassVar[Form] = "matrix"

    columns: int = 4_096
    words: int = 2

    def __post_init__(self) -> None:
        for name, value, most in (
            ("columns", self.columns, MOST_COLUMNS),
            ("words", self.words, MOST_WORDS),
        ):
            if not 1 <= value <= most:
                raise InvalidRequest(f"{name} is a number from 1 to {most}, not {value}")

    def transform(
        self, batch: Batch, learnt: Learnt, chance: Chance | None = None
    ) -> "NDArray[np.float32]":
        from sklearn.feature_extraction.text import HashingVectorizer

        texts = checked(batch)
        if not texts:
            return np.zeros((0, self.columns), np.float32)
        hashing: Any = HashingVectorizer(
            n_features=self.columns,
            ngram_range=(1, self.words),
            lowercase=False,
            dtype=np.float32,
        )
        matrix: NDArray[np.float32] = hashing.transform(texts).toarray()
        return matrix
