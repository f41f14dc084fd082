"""The values of key spaces, and the messages of queues."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "key_values",
        *_keys("space", "key"),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_index(
        "key_values_number", "key_values", ["workspace", "space", "number"], unique=True
    )
    op.create_table(
        "messages",
        *_keys("queue"),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("sent_at_ms", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text),
    )
    op.create_index("messages_digest", "messages", ["workspace", "queue", "digest"])


def _keys(*names: str) -> list[sa.Column[str]]:
    text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
    return [sa.Column(name, text, primary_key=True) for name in ("workspace", *names)]
