"""Engines turn messages into tokens. They know neither queue nor HTTP nor Redis."""

from dure_worker.engines.base import Engine, EngineInfo, GenerateRequest, Token

__all__ = ["Engine", "EngineInfo", "GenerateRequest", "Token"]
