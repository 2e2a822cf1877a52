"""How to connect to ML Metadata's store."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ml_metadata.proto import metadata_store_pb2

from captionflow.core.errors import InvalidInputError

_EXPECTED = "expected a path (SQLite), mysql://USER:PASSWORD@HOST:PORT/DATABASE or postgresql://…"


def connection_config(location: str) -> metadata_store_pb2.ConnectionConfig:
    """Return the connection to the store.

    Args:
        location: a path for SQLite, or the URL of a MySQL or PostgreSQL database.

    Raises:
        InvalidInputError: `location` is neither.
    """
    config = metadata_store_pb2.ConnectionConfig()
    if "://" not in location:
        path = Path(location).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        config.sqlite.filename_uri = str(path)
        config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return config
    url = urlsplit(location)
    database = url.path.removeprefix("/")
    if not url.hostname or not database or url.scheme not in ("mysql", "postgresql"):
        # The rest is left out: it may hold a password.
        raise InvalidInputError(f"--metadata: {url.scheme}://…: {_EXPECTED}")
    user, password = unquote(url.username or ""), unquote(url.password or "")
    if url.scheme == "mysql":
        config.mysql.CopyFrom(
            metadata_store_pb2.MySQLDatabaseConfig(
                host=url.hostname, port=url.port or 3306, database=database, user=user, password=password
            )
        )
    else:
        config.postgresql.CopyFrom(
            metadata_store_pb2.PostgreSQLDatabaseConfig(
                host=url.hostname, port=str(url.port or 5432), dbname=database, user=user, password=password
            )
        )
    return config


def password(location: str) -> str:
    """Return the password in a store's location; empty if it has none."""
    return unquote(urlsplit(location).password or "") if "://" in location else ""
