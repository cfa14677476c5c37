"""The releases."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create their table."""
    op.create_table(
        "releases",
        sa.Column("model", sa.String(80), primary_key=True),
        sa.Column("tag", sa.String(80), primary_key=True),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("weights_bytes", sa.BigInteger, nullable=False),
        sa.Column("adapters", sa.Text, nullable=False),
        sa.Column("modelfile_text", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(200), nullable=False),
        sa.Column("notes", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("evaluation", sa.Text),
        sa.Column("pruned_at", sa.DateTime(timezone=True)),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    """Drop it: what was known of releases is lost; they stay on the nodes."""
    op.drop_table("releases")
