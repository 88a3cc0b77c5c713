"""What a worker on another machine is told of the controller's environment: how to reach the store.

These variables hold passwords, so they go to the worker as an argument. Ray shows the environment
of a job to everybody who may look at the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PREFIXES = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "GCLOUD_", "DATABRICKS_", "HF_TOKEN")
_RUN = "MLFLOW_RUN_ID"
"""MLflow would resume the controller's run in the worker, and finish it."""
_FILES = (
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)
"""Variables that name a file. A path of this machine means nothing on another one."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnvironment:
    """Variables that a worker sets, and files that it writes down for itself."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The content of the file that a variable names, by the variable."""

    @classmethod
    def of_this_process(cls) -> WorkerEnvironment:
        """What this process knows of stores. A file that is not there is left out."""
        variables = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_PREFIXES) and name != _RUN
        }
        files = {
            name: Path(value).read_bytes()
            for name, value in variables.items()
            if name in _FILES and Path(value).is_file()
        }
        for name in _FILES:
            variables.pop(name, None)
        return cls(variables=variables, files=files)

    def apply(self, folder: Path) -> None:
        """Set the variables in this process, and write the files into a folder that it owns."""
        os.environ.pop(_RUN, None)
        os.environ.update(self.variables)
        for name, content in self.files.items():
            path = folder / name
            # Nobody else on the machine may read them, not even for a moment.
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            os.environ[name] = str(path)
