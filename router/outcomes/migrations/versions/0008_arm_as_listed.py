"""A column for the policy's arm that ran, without the threshold that a caller's objective gave it."""

import sqlalchemy as sql
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("decisions", sql.Column("listed", sql.String(1000)))


def downgrade() -> None:
    op.drop_column("decisions", "listed")
