"""Recurrent networks: what a sequence is, or how it goes on.

Shape letters in this file: B sequences, T times or tokens, F numbers of each, K classes,
Z times ahead, V values of each, D width inside.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from leptonai.errors import InvalidRequest
from leptonai.training.models import checks
from leptonai.training.models.base import Model
from leptonai.training.models.scaling import Scaling
from leptonai.training.models.tasks import Classes, Values
from leptonai.training.parallel import Plan

MAX_HORIZON = 1 << 16


class _Recurrent(Model):
    """Sequences in; scores of the classes [B, K], or the values of the next times [B, Z, V], out.

    The input is tokens [B, T] or numbers [B, T, F]; or a pair of either and the lengths [B], where
    sequences of several lengths were padded at their ends. Of tokens the padding is seen by itself.
    Padding changes nothing of what comes out. Weights begin as torch's layers begin.

    Args:
        num_features: F; or else
        vocabulary: how many tokens there are.
        num_classes: K; or else
        horizon: Z, with
        num_values: V.
        width: D, of the state.
        layers: one upon another.
        bidirectional: read from both ends, too.
        dropout: share of what passes from layer to layer that training leaves out.
        padding: the token that is none.
        input_mean, input_std: of the raw numbers: one for all, or one for each of F.
        value_mean, value_std: of the targets, where the outputs are values.
        classes: their names.
    """

    cell: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]

    def __init__(
        self,
        num_features: int | None = None,
        num_classes: int | None = None,
        *,
        vocabulary: int | None = None,
        horizon: int | None = None,
        num_values: int = 1,
        width: int = 128,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        padding: int = 0,
        input_mean: float | Sequence[float] = 0.0,
        input_std: float | Sequence[float] = 1.0,
        value_mean: float = 0.0,
        value_std: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if (num_features is None) == (vocabulary is None):
            raise InvalidRequest("expected num_features or vocabulary, and not both")
        if (num_classes is None) == (horizon is None):
            raise InvalidRequest("expected num_classes or horizon, and not both")
        self.num_features, self.vocabulary = num_features, vocabulary
        self.num_classes, self.horizon = num_classes, horizon
        self.num_values = checks.whole("num_values", num_values, 1, checks.MAX_WIDTH)
        self.width = checks.whole("width", width, 1, checks.MAX_WIDTH)
        self.layers = checks.whole("layers", layers, 1, checks.MAX_LAYERS)
        self.bidirectional = bool(bidirectional)
        self.dropout = checks.share("dropout", dropout)
        self.input_mean, self.input_std = input_mean, input_std
        checks.scale("value", value_mean, value_std)
        self.value_mean, self.value_std = value_mean, value_std
        self.padding = padding
        self.classes = checks.class_names(num_classes, classes) if num_classes else None
        self.task = Classes(num_classes) if num_classes else Values(value_std)

        if vocabulary is not None:
            checks.whole("vocabulary", vocabulary, 2, checks.MAX_VOCABULARY)
            checks.whole("padding", padding, 0, vocabulary - 1)
            self.entry: nn.Module = nn.Embedding(vocabulary, width, padding_idx=padding)
            inputs = width
        else:
            inputs = checks.whole("num_features", num_features, 1, checks.MAX_WIDTH)
            self.entry = Scaling(input_mean, input_std, inputs)
        self.memory = self.cell(
            inputs,
            width,
            num_layers=layers,
            bidirectional=self.bidirectional,
            dropout=dropout if layers > 1 else 0.0,
            batch_first=True,
        )
        outputs = num_classes or checks.whole("horizon", horizon, 1, MAX_HORIZON) * self.num_values
        self.head = nn.Linear(width * (2 if bidirectional else 1), outputs)

    def forward(self, inputs: Any) -> Tensor:
        sequences, lengths_B = self._read(inputs)
        entered_BTD = self.entry(sequences)
        if lengths_B is None:
            _, state = self.memory(entered_BTD)
        else:
            _, state = self.memory(
                pack_padded_sequence(
                    entered_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False
                )
            )
        hidden = state[0] if isinstance(state, tuple) else state  # an LSTM's has cells, too
        ends = 2 if self.bidirectional else 1
        last_BD = hidden[-ends:].transpose(0, 1).flatten(1)
        outputs: Tensor = self.head(last_BD)
        if self.horizon is None:
            return outputs
        values_BZV = outputs.view(-1, self.horizon, self.num_values)
        return values_BZV * self.value_std + self.value_mean

    def example(self, count: int = 1) -> Tensor:
        if self.vocabulary is not None:
            return torch.full((count, 1), (self.padding + 1) % self.vocabulary)
        return torch.zeros((count, 1, self.num_features or 1))

    def check_inputs(self, inputs: Any) -> None:
        sequences, lengths_B = self._read(inputs)
        if self.vocabulary is not None:
            checks.numbers_below("the tokens", sequences, self.vocabulary)
        else:
            checks.finite("sequences", sequences)
        if lengths_B is None:
            return
        if bool(((lengths_B < 1) | (lengths_B > sequences.shape[1])).any()):
            raise InvalidRequest(
                f"expected lengths from 1 to {sequences.shape[1]}, got "
                f"{int(lengths_B.min())} to {int(lengths_B.max())}",
                hint="a sequence of nothing but padding is empty: take it out",
            )

    def plan(self) -> Plan:
        return Plan(blocks=(self.memory, self.head))

    def _read(self, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Sequences, and their lengths where not all are whole."""
        pair = isinstance(inputs, tuple | list)
        if pair and len(inputs) != 2:
            raise InvalidRequest(
                f"{type(self).__name__} expected sequences, or (sequences, lengths), "
                f"got {len(inputs)} parts"
            )
        sequences, lengths_B = inputs if pair else (inputs, None)
        expected = ("B", "T") if self.vocabulary is not None else ("B", "T", self.num_features or 1)
        checks.shape(self, "sequences", sequences, expected)
        if lengths_B is not None:
            checks.shape(self, "lengths", lengths_B, (len(sequences),))
        elif self.vocabulary is not None:
            is_token = sequences != self.padding
            if not bool(is_token[:, -1].all()):
                at_T = torch.arange(1, sequences.shape[1] + 1, device=sequences.device)
                lengths_B = (is_token * at_T).amax(1)
        return sequences, lengths_B


class RNN(_Recurrent, format="torch-rnn"):
    __doc__ = f"The plain kind. {_Recurrent.__doc__}"
    cell = nn.RNN


class LSTM(_Recurrent, format="torch-lstm"):
    __doc__ = f"With a memory beside the state. {_Recurrent.__doc__}"
    cell = nn.LSTM


class GRU(_Recurrent, format="torch-gru"):
    __doc__ = f"With gates, and the state alone. {_Recurrent.__doc__}"
    cell = nn.GRU
