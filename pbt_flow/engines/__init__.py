"""Engines run turns. An engine knows plans and turns, and nothing of decisions or of MLflow."""

from pbt_flow.engines.base import Engine, LostJob
from pbt_flow.engines.inline import InlineEngine
from pbt_flow.engines.processes import ProcessEngine
from pbt_flow.exceptions import EngineError

__all__ = ["Engine", "EngineError", "InlineEngine", "LostJob", "ProcessEngine"]
