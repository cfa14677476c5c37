"""Traffic: the splits, the gateways that have them, outcomes on their way to the judge, callers' votes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_MOMENT = sa.DateTime(timezone=True)
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create its tables."""
    op.create_table(
        "traffic",
        sa.Column("model", sa.String(80), primary_key=True),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("set_by", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("set_at", _MOMENT, nullable=False),
    )
    version = op.create_table(
        "traffic_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(version, [{"id": 1, "version": 0}])
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("traffic_version", sa.BigInteger, nullable=False),
        sa.Column("outcomes_at", _MOMENT, nullable=True),
    )
    op.create_table(
        "rollout_outcomes",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("rollout", sa.String(200), nullable=False),
        sa.Column("gateway", sa.String(64), nullable=False),
        sa.Column("flushed_at", _MOMENT, nullable=False),
        sa.Column("batch", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollout_outcomes_rollout", "rollout_outcomes", ["rollout"])
    _create_feedback()


def _create_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("release", sa.String(170), nullable=False),
        sa.Column("rollout", sa.String(200), nullable=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("given_by", sa.String(200), nullable=False),
        sa.Column("given_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("tenant", "request_id", name="uq_feedback_tenant"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_rollout", "feedback", ["rollout"])
    op.create_table(
        "feedback_pending",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("request_id", sa.String(128), primary_key=True),
        sa.Column("release", sa.String(170), nullable=True),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("given_by", sa.String(200), nullable=False),
        sa.Column("given_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    """Drop them: after that only the settings say which release answers."""
    for table in ("feedback_pending", "feedback", "rollout_outcomes", "gateways", "traffic_version", "traffic"):
        op.drop_table(table)
