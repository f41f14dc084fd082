"""Photons of models of language, which answer on OpenAI's routes."""

import os
from pathlib import Path
from typing import Any

from leptonai.serving.kinds.opening import Opened
from leptonai.serving.kinds.transformers import of_embedder
from leptonai.serving.language.decoder import Decoder, Row
from leptonai.serving.language.drawing import Drawing, Sampling
from leptonai.serving.language.embedding import Embedder, open_embedder
from leptonai.serving.language.embedding_routes import EmbeddingRoutes
from leptonai.serving.language.writer import Writer
from leptonai.serving.language.writing_routes import WritingRoutes
from leptonai.serving.model import ModelServer, use_threads
from leptonai.serving.photon import Photon
from leptonai.serving.threads import Threads


class WritingServer(Photon):
    """Writes texts: ``/v1/completions`` and ``/v1/chat/completions``."""

    writer: Writer
    decoder: Decoder

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def init(self) -> None:
        self.writer = Writer(self.directory)
        self.decoder = Decoder(self.writer.model)

    def warm_up(self) -> None:
        """The first passes are slow: nobody shall wait for them."""
        use_threads()
        self.decoder.join([Row([0], Drawing(Sampling(), 0))])
        self.decoder.step()
        self.decoder.reset()

    @Photon.handler("v1", mount=True)
    def openai(self) -> Any:
        return WritingRoutes(
            names_of(self.directory), self.writer, self.decoder, _computing_thread()
        )


class EmbeddingServer(ModelServer):
    """Embeds texts: ``/v1/embeddings``, and as values at ``/predict``."""

    embedder: Embedder

    def opened(self) -> Opened:
        self.embedder = open_embedder(self.directory)
        return of_embedder(self.embedder)

    @Photon.handler("v1", mount=True)
    def openai(self) -> Any:
        return EmbeddingRoutes(names_of(self.directory), self.embedder, _computing_thread())


def names_of(directory: Path) -> list[str]:
    """By which the model may be asked: the endpoint's, or else the directory's."""
    return [os.environ.get("LEPTON_DEPLOYMENT_NAME") or directory.resolve().name]


def _computing_thread() -> Threads:
    return Threads(1, "computing", begin=use_threads)
