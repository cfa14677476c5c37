"""Who was erased, for writers that come late; and whose answer a vote is on."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the table of the erased, and add whose answer it was to votes; older ones leave it empty."""
    op.create_table(
        "privacy_erasures",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("subject_tag", sa.String(64), primary_key=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.add_column("feedback", sa.Column("subject_hash", sa.String(64), nullable=True))
    op.create_index("ix_feedback_subject_hash", "feedback", ["subject_hash"])


def downgrade() -> None:
    """Forget both."""
    op.drop_index("ix_feedback_subject_hash", "feedback")
    op.drop_column("feedback", "subject_hash")
    op.drop_table("privacy_erasures")
