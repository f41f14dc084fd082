"""The text of tokens that come one by one: what is certain of it, up to a stop sequence. Pure."""

from collections.abc import Callable, Sequence

_UNFINISHED = "�"  # what a tokenizer writes for the first bytes of a character


class GrowingText:
    """Gives the pieces of a text as soon as no further token can change them.

    The last bytes of a character may come with a later token, and what looks like the beginning of
    a stop sequence may turn out to be one: both are held back.

    Args:
        decode: tokens as text.
        stops: the text ends before the first of them that occurs.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self.stopped = False  # a stop sequence has come
        self._decode = decode
        self._stops = stops
        self._tokens: list[int] = []
        # Tokens are decoded together with those before them, since the space before a word may
        # depend on what it follows: from `_context` on, of which up to `_told` is known already.
        self._context = 0
        self._told = 0
        self._known = ""  # the text of the tokens from `_context` to `_told`
        self._held = ""  # may be the beginning of a stop sequence

    def add(self, token: int) -> str:
        """What became certain; nothing any more after a stop sequence."""
        self._tokens.append(token)
        text = self._decode(self._tokens[self._context :])
        if text.endswith(_UNFINISHED) or len(text) <= len(self._known):
            return ""
        new = text[len(self._known) :]
        self._context, self._told = self._told, len(self._tokens)
        self._known = self._decode(self._tokens[self._context :])
        return self._certain(new)

    def finish(self) -> str:
        """No token follows: what was held back."""
        rest = "" if self.stopped else self._decode(self._tokens[self._context :])
        found = self._certain(rest[len(self._known) :])
        held, self._held = self._held, ""
        return found if self.stopped else found + held

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        at = min((found for stop in self._stops if (found := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self.stopped = True
            self._held = ""
            return text[:at]
        kept = len(text) - _begun(text, self._stops)
        self._held = text[kept:]
        return text[:kept]


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at its end are the beginning of a stop sequence, at most."""
    return max(
        (
            length
            for stop in stops
            for length in range(1, min(len(stop), len(text) + 1))
            if text.endswith(stop[:length])
        ),
        default=0,
    )
