"""`NormaliseText`: texts that mean the same become the same."""

import re
import unicodedata
from typing import Any, ClassVar, Literal

import numpy as np

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Batch, Form, Learnt, Step
from leptonai.errors import InvalidRequest

# None of them ever goes back in a text, so all take linear time.
TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});")
URL = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)


class NormaliseText(Step, frozen=True, kw_only=True, tag="normalise_text"):
    """Tags and URLs make way for a space; white space of any length becomes one space."""

    takes: ClassVar[Form] = "texts"
    gives: ClassVar[Form] = "texts"

    # NFC: é is one character, however it was typed. NFKC: ﬁ is fi, too, and ² is 2.
    form: Literal["NFC", "NFKC"] = "NFC"
    lower: bool = False
    strip_accents: bool = False
    whitespace: bool = True
    remove_html: bool = False
    remove_urls: bool = False

    def __post_init__(self) -> None:
        if self.form not in ("NFC", "NFKC"):
            raise InvalidRequest(f'form is "NFC" or "NFKC", not {self.form!r}')

    def transform(self, batch: Batch, learnt: Learnt, chance: Chance | None = None) -> list[str]:
        return [self._normalised(text) for text in checked(batch)]

    def _normalised(self, text: str) -> str:
        if self.remove_html:
            text = ENTITY.sub(_unescaped, TAG.sub(" ", text))
        if self.remove_urls:
            text = URL.sub(" ", text)
        text = unicodedata.normalize(self.form, text)
        if self.lower:
            text = text.lower()
        if self.strip_accents and not text.isascii():
            apart = unicodedata.normalize("NFD", text)
            kept = "".join(each for each in apart if unicodedata.category(each) != "Mn")
            text = unicodedata.normalize(self.form, kept)
        return " ".join(text.split()) if self.whitespace else text


def _unescaped(entity: re.Match[str]) -> str:
    import html

    return html.unescape(entity.group())


def checked(batch: Any) -> list[str]:
    """Raises:
    InvalidRequest: one of them is no text that could be written to a file.
    """
    texts = batch.tolist() if isinstance(batch, np.ndarray) else batch
    if not isinstance(texts, list | tuple):
        raise InvalidRequest(
            f"a batch of texts is a list, not {type(batch).__name__}",
            hint="of one text, it is [text]",
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(
                f"text {number} is {type(text).__name__}, not a text",
                hint="bytes are decoded first: str(data, 'utf-8')",
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"text {number} holds half a character at {error.start}",
                    hint="it was decoded wrongly: read it with encoding='utf-8'",
                ) from None
    return list(texts)
