"""Columns for a decision's objective, the policy's own choice where another arm was explored, and the solution."""

from typing import Any

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"

_NEW: dict[str, sql.types.TypeEngine[Any]] = {
    "objective": sql.String(32),
    "objective_value": sql.Float(),
    "objective_given": sql.Boolean(),
    "choice": sql.String(128),
    "explore": sql.Float(),
    "levels_by": sql.String(12),
    "stop": sql.String(16),
    "answer": sql.Text(),
    "text": sql.Text(),
}


def upgrade() -> None:
    for name, kind in _NEW.items():
        op.add_column("decisions", sql.Column(name, kind))


def downgrade() -> None:
    for name in reversed(_NEW):
        op.drop_column("decisions", name)
