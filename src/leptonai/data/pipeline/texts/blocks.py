"""`Blocks`: texts laid end to end and cut, for a model that learns to say what comes next.

Shape letters: B texts, T tokens of a block, N blocks.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest

MOST_TOKENS = 1 << 33  # 32 GiB
LONGEST_BLOCK = 1 << 20


class Blocks:
    """N samples of (inputs [T], targets [T]), each target the token after its input: every stretch
    of T + 1 tokens, the last one of each being the first of the next. What is left over at the end
    for less than a block is dropped. No token is copied until a loader picks its block.
    """

    def __init__(self, stream: NDArray[np.int32], length: int) -> None:
        """
        Args:
            stream: all tokens, in order.
            length: T, at least 1.

        Raises:
            InvalidRequest: there are not enough tokens for one block.
        """
        if not 1 <= length <= LONGEST_BLOCK:
            raise InvalidRequest(f"length is a number from 1 to {LONGEST_BLOCK}, not {length}")
        if stream.ndim != 1 or len(stream) <= length:
            raise InvalidRequest(
                f"{stream.size} tokens make no block of {length} and the one after",
                hint="more texts, or shorter blocks",
            )
        self._count = (len(stream) - 1) // length
        self._stream, self._length = stream, length

    @classmethod
    def of(cls, batches: Iterable[Any], length: int, *, padding: int = 0) -> "Blocks":
        """Of the texts that a loader reads with a pipeline that ends in
        ``Tokenise(max_length=None, pad="longest", begin_and_end=True)``.

        Args:
            batches: of tokens [B, T], alone or first in a tuple.
            padding: the token to leave out.
        """
        rows, count = [], 0
        for batch in batches:
            tokens = np.asarray(batch[0] if isinstance(batch, tuple | list) else batch)
            kept = tokens[tokens != padding].astype(np.int32)
            count += len(kept)
            if count > MOST_TOKENS:
                raise InvalidRequest(f"more than {MOST_TOKENS} tokens", hint="train on a part")
            rows.append(kept)
        return cls(np.concatenate(rows) if rows else np.zeros(0, np.int32), length)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        inputs, targets = self.as_columns()
        return inputs[number], targets[number]

    def as_columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """[N, T] both: two views of one stream."""
        end, shape = self._count * self._length, (self._count, self._length)
        return self._stream[:end].reshape(shape), self._stream[1 : end + 1].reshape(shape)
