"""Changes of the tables, forward and back. Expand first, contract a release later.

A new one: copy the newest in `versions/`, write both ways, and name it HEAD here. While gateways are restarted in turn,
the version before works on the new tables: a revision adds, and what it adds may stay empty or has a default. One that
takes away says in `contracts` since which version nothing uses that any more; a test refuses it otherwise.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0010"
"""The newest revision, known without loading Alembic, which costs a start its time; a test checks it."""


def upgrade(connection: sa.Connection) -> None:
    """To HEAD, in the caller's transaction. A revision that we don't know is newer than us, and stays."""
    from alembic import command
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = _config(connection)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is None or current in known:
        command.upgrade(config, "head")


def downgrade(connection: sa.Connection, revision: str) -> None:
    """Back to a revision, or to `base`."""
    from alembic import command

    command.downgrade(_config(connection), revision)


def _config(connection: sa.Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
