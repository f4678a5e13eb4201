"""The schema in a database: made by `init`, brought up to date by `upgrade`, and refused where it is another version.

Each runs in one transaction and under one lock: it is done or it is not, whoever else tries at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from spoolq.errors import NotAllowed, NotASpool, UnknownFormat
from spoolq.postgres import statements
from spoolq.postgres.address import Address, parse
from spoolq.postgres.connection import Call, Database, first_line

VERSION = 2

UPGRADES: Mapping[int, str] = {1: statements.UPGRADE_1}
"""What changes the tables from this version to the next. Functions are replaced as a whole."""


def init(url: str) -> bool:
    """Make the schema and the queue "default" in a database; False where they are there already.

    Raises Unreachable, NotAllowed; UnknownFormat where another version is there.
    """
    address = parse(url)
    return bool(_in_one_transaction(address, _init))


def upgrade(url: str) -> int:
    """Bring the schema to this version of spoolq; the version it had. NotASpool where there is none.

    Clients of the old version fail from then on, with a hint: stop them before.
    """
    return int(_in_one_transaction(parse(url), _upgrade))


def check_version(database: Database) -> None:
    """NotASpool where the database has no schema of ours, UnknownFormat where it is another version's."""
    (row,) = database.ask(Call(op="open", sql=statements.VERSION, repeats=True))
    if row[0] != VERSION:
        raise _other_version(row[0], database.address)


def _in_one_transaction(address: Address, work: Any) -> Any:
    database = Database(address)
    try:
        with database.connect() as connection, connection.transaction():
            connection.execute(statements.INSTALL_LOCK)
            connection.execute(statements.UNCHECKED)
            return work(connection, address)
    except psycopg.errors.InsufficientPrivilege as error:
        hint = "Run it as the role that owns the schema spoolq or, where there is none, may make it"
        raise NotAllowed(f"engine: {first_line(error)}", op="engine", path=address.shown, hint=hint) from error
    except psycopg.Error as error:
        raise database.error_of(error, Call(op="engine", sql="")) from error
    finally:
        database.close()


def _init(connection: psycopg.Connection[Any], address: Address) -> bool:
    if _has_schema(connection):
        version = _version(connection, address)
        if version != VERSION:
            raise _other_version(version, address)
        return False
    connection.execute(statements.script("schema.sql").encode())
    connection.execute(statements.script("functions.sql").encode())
    connection.execute(statements.SET_VERSION, (VERSION,))
    connection.execute(statements.CREATE, ("default",))
    return True


def _upgrade(connection: psycopg.Connection[Any], address: Address) -> int:
    if not _has_schema(connection):
        hint = "Make it with: spoolq engine init"
        raise NotASpool(f"{address.shown} has no schema spoolq", op="upgrade", path=address.shown, hint=hint)
    version = _version(connection, address)
    if version > VERSION:
        raise _other_version(version, address)
    for old in range(version, VERSION):
        connection.execute(UPGRADES[old].encode())
    for (drop,) in connection.execute(statements.FUNCTIONS, (True,)).fetchall():
        connection.execute(drop.encode())
    connection.execute(statements.script("functions.sql").encode())
    connection.execute(statements.SET_VERSION, (VERSION,))
    return version


def _has_schema(connection: psycopg.Connection[Any]) -> bool:
    return bool(connection.execute(statements.HAS_SCHEMA).fetchall()[0][0])


def _version(connection: psycopg.Connection[Any], address: Address) -> int:
    if not connection.execute(statements.IS_OURS).fetchall()[0][0]:
        hint = "Use another database, or drop that schema if nobody needs it"
        raise NotASpool(
            f"{address.shown} has a schema spoolq of something else", op="engine", path=address.shown, hint=hint
        )
    return int(connection.execute(statements.VERSION).fetchall()[0][0])


def _other_version(version: int, address: Address) -> UnknownFormat:
    hint = "Upgrade it with: spoolq engine upgrade" if version < VERSION else "Install a newer spoolq"
    message = f"{address.shown} has version {version} of the schema, this spoolq knows {VERSION}"
    return UnknownFormat(message, op="open", path=address.shown, hint=hint)
