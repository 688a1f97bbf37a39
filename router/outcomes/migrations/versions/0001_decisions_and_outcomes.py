"""Decisions and outcomes."""

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "decisions",
        sql.Column("call_id", sql.String(128), primary_key=True),
        sql.Column("at", sql.DateTime(timezone=True), nullable=False, index=True),
        sql.Column("method", sql.String(32), nullable=False),
        sql.Column("caller", sql.String(256)),
        sql.Column("bundle", sql.String(256), nullable=False),
        sql.Column("prompt_sha256", sql.String(64), nullable=False, index=True),
        sql.Column("prompt", sql.Text),
        sql.Column("level", sql.Integer, nullable=False),
        sql.Column("probabilities", sql.JSON, nullable=False),
        sql.Column("arm", sql.String(128), nullable=False),
        sql.Column("propensity", sql.Float),
        sql.Column("code", sql.String(32), nullable=False),
        sql.Column("reason", sql.String(64), nullable=False),
        sql.Column("prompt_tokens", sql.BigInteger, nullable=False),
        sql.Column("generated_tokens", sql.BigInteger, nullable=False),
        sql.Column("scored_tokens", sql.BigInteger, nullable=False),
        sql.Column("flops", sql.Float, nullable=False),
        sql.Column("seconds", sql.Float, nullable=False),
    )
    op.create_table(
        "outcomes",
        sql.Column("call_id", sql.String(128), primary_key=True),
        sql.Column("at", sql.DateTime(timezone=True), nullable=False),
        sql.Column("correct", sql.Boolean),
        sql.Column("score", sql.Float),
    )


def downgrade() -> None:
    op.drop_table("outcomes")
    op.drop_table("decisions")
