"""Thin Azure Functions triggers over the engine."""
