"""A column for the accuracy that each decision promised, to compare outcomes with."""

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("decisions", sql.Column("expected", sql.Float))


def downgrade() -> None:
    op.drop_column("decisions", "expected")
