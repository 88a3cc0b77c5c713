"""What stands between MLflow and a store: databases, buckets, and the packages that reach them.

MLflow loads such a package when it is first needed, and hands its exceptions on as they are. Here
they are told from errors of our own and of the user's, and a package that is missing is named.
"""

from __future__ import annotations

import re

from mlflow.exceptions import MlflowException

from pbt_flow.utils.reasons import reason_of

_LIBRARIES = {
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
"""Packages whose exceptions are of a store."""
_PACKAGES = {
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
"""What to install for a module, where that is not called like it."""
_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
_SECONDS = 20
"""How long a database server may take to answer at all."""
_REFUSED = {*range(400, 500)} - {408, 429}
"""Codes of HTTP that blame the request, and not its moment."""


def is_of_a_store(error: BaseException) -> bool:
    """Whether an exception is of a store, or of a package that reaches it."""
    if isinstance(error, MlflowException | OSError):
        return True
    if isinstance(error, ImportError):
        # MLflow's own words for a package that is missing have no name.
        return error.name is None or _root(error.name) in _LIBRARIES
    return any(_root(kind.__module__) in _LIBRARIES for kind in type(error).__mro__)


def says(error: BaseException) -> str:
    """What an exception of a store says, in one line; of a missing package, how to install it."""
    if isinstance(error, ImportError) and error.name:
        return f'the package {error.name} is not installed; pip install "{_package(error.name)}"'
    if isinstance(error, MlflowException):
        text = str(error.message)
    elif isinstance(error, OSError):
        text = str(error) or type(error).__name__
    else:
        # SQLAlchemy puts much around what the database itself says.
        original = getattr(error, "orig", None)
        text = reason_of(error) if original is None else str(original)
    return hide_password(" ".join(text.split()))


def is_refusal(error: BaseException) -> bool:
    """Whether a package that reaches a store would raise the same if it were asked again."""
    if isinstance(error, ImportError) or "Credential" in type(error).__name__:
        return True
    # boto3 raises an error of its own for what it was answered.
    answers = (error, error.__cause__, error.__context__)
    return any(_code(answer) in _REFUSED for answer in answers if answer is not None)


def hide_password(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    return re.sub(r"(\w://[^\s:/@]+):[^\s/@]+@", r"\1:***@", text)


def check_database(uri: str) -> None:
    """Ask a database once whether it lets us in: MLflow would try for two minutes.

    Raises:
        Exception: Whatever SQLAlchemy or its driver raises.
    """
    scheme = uri.partition("://")[0].partition("+")[0]
    if scheme not in _DATABASES:
        return
    import sqlalchemy

    limit = {"connect_timeout": _SECONDS} if scheme in ("postgresql", "mysql") else {}
    pool = sqlalchemy.pool.NullPool
    engine = sqlalchemy.create_engine(uri, connect_args=limit, poolclass=pool)
    try:
        with engine.connect() as connection:
            if scheme == "sqlite":  # it reads nothing before it is asked
                connection.execute(sqlalchemy.text("SELECT 1 FROM sqlite_master"))
    except sqlalchemy.exc.OperationalError as error:
        # Another process writes; MLflow waits for it.
        if "locked" not in str(error):
            raise


def _root(module: str) -> str:
    return module.partition(".")[0]


def _package(module: str) -> str:
    """The package that a module comes with."""
    names = [".".join(module.split(".")[:n]) for n in range(module.count(".") + 1, 0, -1)]
    return next((_PACKAGES[name] for name in names if name in _PACKAGES), _root(module))


def _code(error: BaseException) -> int | None:
    """The code of HTTP that an exception tells, each package in its own way."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        answer = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for found in (
        answer,
        getattr(answer, "status_code", None),  # requests
        getattr(error, "status_code", None),  # azure
        getattr(error, "code", None),  # google
    ):
        if isinstance(found, int):
            return found
    return None
