"""Workloads with parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from leptonai.client.asynchronous.calls import AsyncCalls
from leptonai.client.messages import delete_of, get_of, path_of, post_to
from leptonai.spec.metadata import Metadata
from leptonai.spec.templates import LeptonTemplate, RenderedTemplate, TemplateSpec


class AsyncTemplates:
    """Workloads with parameters; `scope` is "public" or "private"."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(self, name: str, spec: TemplateSpec) -> LeptonTemplate:
        asked = LeptonTemplate(metadata=Metadata(name=name), spec=spec)
        return await self._calls.read(post_to("/templates/private", asked, key=""), LeptonTemplate)

    async def list(self, scope: str) -> Sequence[LeptonTemplate]:
        return await self._calls.read(get_of("templates", scope), list[LeptonTemplate])

    async def get(self, scope: str, name: str) -> LeptonTemplate:
        return await self._calls.read(get_of("templates", scope, name), LeptonTemplate)

    async def render(self, scope: str, name: str, values: Mapping[str, Any]) -> RenderedTemplate:
        path = path_of("templates", scope, name, "render")
        return await self._calls.read(post_to(path, dict(values), key=""), RenderedTemplate)

    async def remove(self, name: str) -> None:
        await self._calls.ask(delete_of("templates", "private", name))
