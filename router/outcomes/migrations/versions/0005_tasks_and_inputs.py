"""Columns for the task of each request, and its inputs."""

import sqlalchemy as sql
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("decisions", sql.Column("task", sql.Text))
    op.add_column("decisions", sql.Column("inputs", sql.JSON))


def downgrade() -> None:
    op.drop_column("decisions", "inputs")
    op.drop_column("decisions", "task")
