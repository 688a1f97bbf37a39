"""An index for a caller's newest decisions, which the pages under /ui show."""

from alembic import op

revision = "0007"
down_revision = "0006"

_INDEX = "ix_decisions_caller_at"


def upgrade() -> None:
    op.create_index(_INDEX, "decisions", ["caller", "at"])


def downgrade() -> None:
    op.drop_index(_INDEX, "decisions")
