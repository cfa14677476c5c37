"""An Ollama-compatible node over llama.cpp, for one-command start, tests and the edge."""

from deployment.embedded.node import NodeOptions, create_node, serve

__all__ = ["NodeOptions", "create_node", "serve"]
