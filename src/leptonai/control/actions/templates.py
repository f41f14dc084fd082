"""Private templates: made and deleted; and what any template becomes."""

import secrets

from leptonai.control.actions.committing import insisting, name_taken, put
from leptonai.control.actions.finding import with_key
from leptonai.control.requests import name_and_labels
from leptonai.control.templates import public_templates
from leptonai.control.world import World
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.records import Template
from leptonai.core.templates import check_template
from leptonai.errors import AlreadyExists, InvalidRequest, NotFound
from leptonai.ports.store import Delete
from leptonai.security.permissions import may_read, require
from leptonai.spec.templates import LeptonTemplate


async def create_template(
    world: World, principal: Principal, workspace: str, asked: LeptonTemplate
) -> Template:
    require(principal, Action.CREATE, Resource(kind="template", workspace=workspace))
    name, labels = name_and_labels(asked.metadata, "template")
    if name in public_templates():
        raise AlreadyExists(f"there is a public template {name!r}", hint="Choose another name.")
    if not asked.spec.content:
        raise InvalidRequest("spec.content: is empty", hint="Give the spec of a workload.")
    check_template(asked.spec)
    now_ms = world.clock.now_ms()
    with name_taken(
        f"there is a template {name!r} already",
        hint=f"Remove it first: `leptonai template remove {name}`.",
    ):
        return await put(
            world,
            Template(
                workspace=workspace,
                id=secrets.token_hex(8),
                name=name,
                created_at_ms=now_ms,
                modified_at_ms=now_ms,
                owner=principal.name,
                labels=labels,
                visibility=asked.metadata.visibility or "",
                spec=asked.spec,
            ),
        )


async def delete_template(world: World, principal: Principal, workspace: str, name: str) -> None:
    async def change() -> None:
        template = await find_template(world, principal, workspace, name)
        require(principal, Action.DELETE, template)
        await world.commit(Delete(template))

    await insisting(change)


async def find_template(world: World, principal: Principal, workspace: str, name: str) -> Template:
    found = await with_key(world, workspace, Template, name)
    if found is None or not may_read(principal, found):
        raise no_template(name)
    return found


def no_template(name: str) -> NotFound:
    return NotFound(
        f"there is no template {name[:100]!r}", hint="`leptonai template list` shows them."
    )
