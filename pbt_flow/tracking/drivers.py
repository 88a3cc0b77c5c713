"""Errors of the packages by which MLflow reaches a store: database drivers and cloud libraries.

MLflow loads such a package when it first needs it, and does not translate its exceptions. This file
tells these exceptions from our own errors and the user's, and names a package that is missing.
"""

from __future__ import annotations

import re

from mlflow.exceptions import MlflowException

from pbt_flow.utils.passwords import DATABASES, hide_password
from pbt_flow.utils.reasons import reason_of

_STORE_PACKAGES = {
    "alembic",
    "azure",
    "boto3",
    "botocore",
    "databricks",
    "google",
    "paramiko",
    "psycopg",
    "psycopg2",
    "pyarrow",
    "pymssql",
    "pymysql",
    "MySQLdb",
    "mysql",
    "oracledb",
    "pyodbc",
    "pysftp",
    "requests",
    "s3transfer",
    "sqlalchemy",
    "urllib3",
}
"""Packages whose exceptions come from a store."""
_INSTALL_NAMES = {
    # It stands between two quotes in a message, and closes and opens them again.
    "MySQLdb": 'mysqlclient" (or write mysql+pymysql:// and install "pymysql',
    "azure.identity": "azure-identity",
    "azure.storage.filedatalake": "azure-storage-file-datalake",
    "azure": "azure-storage-blob",
    "google": "google-cloud-storage",
    "mysql": "mysql-connector-python",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "botocore": "boto3",
    "databricks": "databricks-sdk",
}
"""What to install for a module, if the package has another name than the module."""
_CONNECT_SECONDS = 20
"""How long a database server may take to answer at all."""
_REFUSING_CODES = {*range(400, 500)} - {408, 429}
"""HTTP status codes of refusals. 408 (timeout) and 429 (too many requests) ask to try again."""


def is_store_error(error: BaseException) -> bool:
    """Whether an exception comes from a store, or from a package that reaches one."""
    if isinstance(error, MlflowException | OSError):
        return True
    if isinstance(error, ImportError):
        # MLflow raises an ImportError without a name for some packages that are missing.
        return error.name is None or _root(error.name) in _STORE_PACKAGES
    return any(_root(kind.__module__) in _STORE_PACKAGES for kind in type(error).__mro__)


_CAUSE = re.compile(
    r"Max retries exceeded with url.*\(Caused by \w+\([\"']?(?:\w+\([^)]*\): )?(.+?)[\"']?\)\)"
)
"""What urllib3 says that a request failed of, at the end of a message with the whole request."""


def store_message(error: BaseException) -> str:
    """Return the message of a store's exception on one line, without passwords.

    For a missing package, the message says how to install it.
    """
    if isinstance(error, ImportError) and error.name:
        install = _install_name(error.name)
        return f'the package {error.name} is not installed; pip install "{install}"'
    if isinstance(error, MlflowException):
        text = str(error.message)
    elif isinstance(error, OSError):
        text = str(error) or type(error).__name__
    else:
        # SQLAlchemy's own message has the whole statement and an address around this one.
        database_error = getattr(error, "orig", None)
        text = reason_of(error) if database_error is None else str(database_error)
    text = " ".join(text.split())
    # A request that found nobody is an exception in an exception, each with its address.
    if found := _CAUSE.search(text):
        text = found[1]
    return hide_password(text)


def is_refusal(error: BaseException) -> bool:
    """Whether a store would raise the same error again if it were asked again."""
    if isinstance(error, ImportError) or "Credential" in type(error).__name__:
        return True
    # boto3 raises an error of its own, whose cause or context has the status code.
    errors = (error, error.__cause__, error.__context__)
    return any(_status_code(each) in _REFUSING_CODES for each in errors if each is not None)


def check_database(uri: str) -> None:
    """Connect to a database once, so that a wrong URI or password fails at once.

    MLflow would try again for two minutes.

    Raises:
        Exception: Whatever SQLAlchemy or its driver raises.
    """
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme not in DATABASES:
        return
    import sqlalchemy

    # Only the drivers of these two take the argument.
    limit = {"connect_timeout": _CONNECT_SECONDS} if scheme in ("postgresql", "mysql") else {}
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine(uri, connect_args=limit, poolclass=pool)
    try:
        with engine.connect() as connection:
            # SQLite does not read its file before the first query.
            if scheme == "sqlite":
                connection.execute(sqlalchemy.text("SELECT 1 FROM sqlite_master"))
    except sqlalchemy.exc.OperationalError as error:
        # While another process writes, the database is locked. MLflow waits for it.
        if "locked" not in str(error):
            raise


def _root(module: str) -> str:
    return module.partition(".")[0]


def _install_name(module: str) -> str:
    """Return what to install for a module, by the longest part of its name that is known."""
    name = module
    while name:
        if name in _INSTALL_NAMES:
            return _INSTALL_NAMES[name]
        name = name.rpartition(".")[0]
    return _root(module)


def _status_code(error: BaseException) -> int | None:
    """Return the HTTP status code of an exception; each package keeps it in its own way."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (
        response,
        getattr(response, "status_code", None),  # requests
        getattr(error, "status_code", None),  # azure
        getattr(error, "code", None),  # google
    ):
        if isinstance(found, int):
            return found
    return None
