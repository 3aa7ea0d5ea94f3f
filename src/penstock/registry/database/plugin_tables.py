"""Tables of installed packages, next to the registry's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from penstock.registry.database.base import Database


class HasDatabase(Protocol):
    """A Registry."""

    database_url: str


def open_database(registry: HasDatabase, name: str) -> Database:
    """The database for a package's own tables, not yet connected.

    For SQLite that is the file `name`.db next to the registry's database; for PostgreSQL the same database, where the
    names of the tables should begin with `name`.

    `reader` and `writer` are SQLAlchemy engines. A transaction of `writer` excludes every other writer of this `name`,
    in all processes and on all hosts. Use them inside `sentences()`, which converts errors of the driver into a
    ConfigError of one sentence. Connections do not survive a fork. Raises ConfigError for an invalid address.
    """
    from penstock.registry.database.base import open_database as open_address
    from penstock.registry.database.base import sibling_address

    database = open_address(sibling_address(registry.database_url, f"{name}.db"), owner=name)
    database.what, database.loss = f"the database of {name}", f"the records of {name} are lost"
    return database


def migrate(connection: Connection, directory: Path | str, version_table: str) -> None:
    """Upgrade a package's own tables to the newest of its Alembic scripts, `directory`/versions/*.py.

    It runs in the connection's own transaction: use one of `open_database(…).writer`. No `env.py` is needed.
    `version_table` records the schema version, one table per package, so one database may have tables of several
    packages. Raises ConfigError if the tables were written by a newer release of the package.
    """
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(directory)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}

    def steps(revision: Any, _: Any) -> Any:
        newer = set(revision) - known
        if newer:
            raise ConfigError(
                f"the tables of {version_table} were written by a newer release (their schema is {newer.pop()}); "
                "upgrade the package or choose another database"
            )
        return scripts._upgrade_revs("head", revision)  # as in Alembic's own cookbook

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=version_table, render_as_batch=True)
        environment.run_migrations()
