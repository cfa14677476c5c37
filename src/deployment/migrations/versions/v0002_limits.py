"""Limits of single keys, tenants and models."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create their table."""
    op.create_table(
        "access_limits",
        sa.Column("scope", sa.String(16), primary_key=True),
        sa.Column("subject", sa.String(128), primary_key=True),
        sa.Column("limits", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Drop it: the settings' limits hold again."""
    op.drop_table("access_limits")
