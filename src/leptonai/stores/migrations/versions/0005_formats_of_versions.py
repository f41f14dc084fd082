"""Versions of artifacts are found and counted by their format."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    names = ("workspace", "kind", "id", "state", "document")
    records = sa.table("records", *(sa.column(name) for name in names))
    key = (records.c.workspace, records.c.kind, records.c.id)
    connection = op.get_bind()
    kept = sa.select(*key, records.c.document).where(records.c.kind.in_(("model", "dataset")))
    for workspace, kind, id, document in connection.execute(kept).all():
        version = json.loads(bytes(document))
        if version.get("deleted"):
            continue
        of_this = (
            records.c.workspace == workspace,
            records.c.kind == kind,
            records.c.id == id,
        )
        state = version["spec"]["format"]
        connection.execute(sa.update(records).where(*of_this).values(state=state))
