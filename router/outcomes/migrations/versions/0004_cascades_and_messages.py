"""Longer columns for arms, since a cascade's text is long, and a column for all messages of a prompt."""

import sqlalchemy as sql
from alembic import op

revision = "0004"
down_revision = "0003"

_LONG = ("arm", "choice")


def upgrade() -> None:
    with op.batch_alter_table("decisions") as table:  # SQLite can't alter a column in place
        table.add_column(sql.Column("messages", sql.JSON))
        for name in _LONG:
            table.alter_column(name, type_=sql.String(1000), existing_type=sql.String(128))


def downgrade() -> None:
    with op.batch_alter_table("decisions") as table:
        for name in _LONG:
            table.alter_column(name, type_=sql.String(128), existing_type=sql.String(1000))
        table.drop_column("messages")
