"""`asynchronous/templates.py` as `tools/derive_sync_client.py` made it sync; change that."""

from collections.abc import Mapping, Sequence
from typing import Any

from leptonai.client.synchronous.calls import Calls
from leptonai.client.messages import delete_of, get_of, path_of, post_to
from leptonai.spec.metadata import Metadata
from leptonai.spec.templates import LeptonTemplate, RenderedTemplate, TemplateSpec


class Templates:
    """Workloads with parameters; `scope` is "public" or "private"."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(self, name: str, spec: TemplateSpec) -> LeptonTemplate:
        asked = LeptonTemplate(metadata=Metadata(name=name), spec=spec)
        return self._calls.read(post_to("/templates/private", asked, key=""), LeptonTemplate)

    def list(self, scope: str) -> Sequence[LeptonTemplate]:
        return self._calls.read(get_of("templates", scope), list[LeptonTemplate])

    def get(self, scope: str, name: str) -> LeptonTemplate:
        return self._calls.read(get_of("templates", scope, name), LeptonTemplate)

    def render(self, scope: str, name: str, values: Mapping[str, Any]) -> RenderedTemplate:
        path = path_of("templates", scope, name, "render")
        return self._calls.read(post_to(path, dict(values), key=""), RenderedTemplate)

    def remove(self, name: str) -> None:
        self._calls.ask(delete_of("templates", "private", name))
