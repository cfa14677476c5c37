"""Run by Alembic, in the connection and transaction of `migrations.upgrade`."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # SQLite too: `database` begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
