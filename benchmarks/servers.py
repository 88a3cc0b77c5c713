"""The servers of the tests, which benchmarks start too: MLflow's, PostgreSQL, and one for S3."""

import sys
from pathlib import Path

# The helpers of the tests name each other as pytest finds them.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from servers import Bucket, Postgres, Server

__all__ = ["Bucket", "Postgres", "Server"]
