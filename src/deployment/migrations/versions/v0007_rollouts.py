"""Rollouts: their state, what happened in them, locks, and the leader's fence."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_MOMENT = sa.DateTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create its tables."""
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(80), nullable=False),
        sa.Column("from_release", sa.String(170), nullable=False),
        sa.Column("to_release", sa.String(170), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("started_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT, nullable=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("active", sa.String(80), nullable=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.UniqueConstraint("active", name="uq_rollouts_active"),
    )
    op.create_index("ix_rollouts_model", "rollouts", ["model"])
    op.create_index("ix_rollouts_started_at", "rollouts", ["started_at"])
    op.create_table(
        "rollout_events",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("rollout", sa.String(64), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollout_events_rollout", "rollout_events", ["rollout"])
    op.create_index("ix_rollout_events_told", "rollout_events", ["told"])
    leader = op.create_table(
        "rollout_leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(100), nullable=False),
    )
    op.bulk_insert(leader, [{"id": 1, "fence": 0, "holder": ""}])
    op.create_table(
        "rollout_locks",
        sa.Column("model", sa.String(80), primary_key=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("locked_by", sa.String(200), nullable=False),
        sa.Column("locked_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Drop them: the traffic stays where it is."""
    for table in ("rollout_locks", "rollout_leader", "rollout_events", "rollouts"):
        op.drop_table(table)
