"""Keys of decisions and outcomes by caller and call id, since two callers may choose the same id."""

import sqlalchemy as sql
from alembic import op

revision = "0006"
down_revision = "0005"

_OWNED = "UPDATE outcomes SET caller = (SELECT caller FROM decisions WHERE decisions.call_id = outcomes.call_id)"
_TABLES = ("decisions", "outcomes")


def upgrade() -> None:
    op.add_column("outcomes", sql.Column("caller", sql.String(256)))
    op.execute(_OWNED)
    for name in _TABLES:
        op.execute(f"UPDATE {name} SET caller = '' WHERE caller IS NULL")
        _rekey(name, "caller", "call_id", nullable=False)


def downgrade() -> None:
    for name in _TABLES:
        # Of rows with the same id, the oldest stays.
        op.execute(
            f"DELETE FROM {name} WHERE EXISTS (SELECT 1 FROM {name} AS other WHERE other.call_id = {name}.call_id"
            f" AND (other.at < {name}.at OR (other.at = {name}.at AND other.caller < {name}.caller)))"
        )
        _rekey(name, "call_id", nullable=True)
    op.drop_column("outcomes", "caller")


def _rekey(name: str, *key: str, nullable: bool) -> None:
    constraint = f"{name}_pkey"
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(constraint, name)
        op.alter_column(name, "caller", nullable=nullable)
        op.create_primary_key(constraint, name, list(key))
        return
    old = sql.Table(name, sql.MetaData(), autoload_with=op.get_bind())
    columns = [
        sql.Column(each.name, each.type, nullable=each.nullable if each.name != "caller" else nullable)
        for each in old.columns
    ]
    # SQLite can't change a key in place.
    op.rename_table(name, f"{name}_old")
    for index in old.indexes:
        op.drop_index(str(index.name), f"{name}_old")
    new = op.create_table(name, *columns, sql.PrimaryKeyConstraint(*key))
    names = [each.name for each in columns]
    before = sql.table(f"{name}_old", *(sql.column(each) for each in names))
    op.execute(sql.insert(new).from_select(names, sql.select(before)))
    for index in old.indexes:
        op.create_index(str(index.name), name, [each.name for each in index.columns])
    op.drop_table(f"{name}_old")
