"""Ramsey: serve a model that you trained, in production, on Ollama."""

__version__ = "0.1.0"
