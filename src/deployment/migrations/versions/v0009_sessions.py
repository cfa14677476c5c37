"""Browsers that people signed in with."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create their table, and the one of the key that seals what a browser keeps while it signs in."""
    op.create_table(
        "browser_sessions",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("principal_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("shown_name", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("seen_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("ended_at", _MOMENT),
        sa.Column("id_token", sa.Text),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    for column in ("principal_id", "expires_at", "version"):
        op.create_index(f"ix_browser_sessions_{column}", "browser_sessions", [column])
    op.create_table(
        "sign_in_key",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Drop them: everybody is signed out."""
    op.drop_table("sign_in_key")
    op.drop_table("browser_sessions")
