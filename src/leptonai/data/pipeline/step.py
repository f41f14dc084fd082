"""What a pipeline is made of: `Step`, one transformation as a user asked for it.

A step is its options, and is never changed: what it learns from the training data is a value of its
own (`Learnt`), which the pipeline keeps beside it. So both can be written down: options and facts
as JSON, arrays as safetensors, and nothing that is run when it is read.

Shape letters: B samples of a batch, H, W, C of an image, T tokens or times, K columns.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from leptonai.data.chance import Chance
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What passes from one step to the next:
#   "table"   a polars LazyFrame; the target is one of its columns
#   "matrix"  float32 [B, K]
#   "images"  an array [B, H, W, C], uint8 as decoded or float32 once normalised
#   "texts"   a list of B texts
#   "tokens"  integers [B, T]
#   "series"  numbers [B, T, K]
Form: TypeAlias = Literal["table", "matrix", "images", "texts", "tokens", "series"]

Batch: TypeAlias = Any  # of a form as above
Fact = TypeVar("Fact")


class Learnt(NamedTuple):
    """What a step knows of the training data."""

    facts: Mapping[str, Any] = MappingProxyType({})  # what JSON can say
    arrays: "Mapping[str, NDArray[Any]]" = MappingProxyType({})

    def fact(self, name: str, kind: type[Fact]) -> Fact:
        """Raises:
        InvalidRequest: it was read from a file, and is not there or of another kind.
        """
        try:
            return msgspec.convert(self.facts[name], kind)
        except (KeyError, msgspec.ValidationError) as error:
            raise InvalidRequest(
                f"a damaged pipeline: {name!a} of what a step learnt is wrong ({error})",
                hint="fit and save it again",
            ) from None


# The training data as it comes to a step: batch after batch, from the beginning each time it is
# called. A table comes in stretches of a fixed number of rows, each a LazyFrame, so that sums are
# the same to the last bit however many threads there are, and memory is bounded.
Training: TypeAlias = Callable[[], Iterator[Batch]]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its fields are its options; its name on disk is its tag. A concrete step says what form it
    takes and gives, and checks its options when it is made (`InvalidRequest`)."""

    takes: ClassVar[Form]
    gives: ClassVar[Form]

    def fit(self, training: Training) -> Learnt:
        """Learn from the training data, and from it alone. Nothing unless overridden."""
        return Learnt()

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> Batch:
        """The batch is not changed; a step may give it on as it is.

        Args:
            chance: what to draw from while training; None else, and then nothing is drawn: what
                augments leaves the batch as it is.

        Raises:
            InvalidRequest: the batch is not as the training data was; says how.
        """
        raise NotImplementedError

    def absorb(self, following: "Step") -> "Step | None":
        """One step that does what this and the following one do, and draws as both would, where
        that is better than one after the other. Both learn nothing."""
        return None
