"""Engines: where turns run. They know plans and turns, and nothing of decisions or trackers."""

from pbt_flow.engines.base import Engine, EngineError, LostJob
from pbt_flow.engines.inline import InlineEngine
from pbt_flow.engines.processes import ProcessEngine

__all__ = ["Engine", "EngineError", "InlineEngine", "LostJob", "ProcessEngine"]
