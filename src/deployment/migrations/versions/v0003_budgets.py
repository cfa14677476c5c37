"""What is used of budgets."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create their table."""
    op.create_table(
        "budget_spending",
        sa.Column("counter", sa.String(320), primary_key=True),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Drop it: every budget begins anew."""
    op.drop_table("budget_spending")
