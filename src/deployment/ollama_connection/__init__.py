"""The connection to a node: one pool of sockets, time-outs, answers read as events. No meaning of its own."""

from deployment.ollama_connection.connection import Connection, encode
from deployment.ollama_connection.events import Events
from deployment.ollama_connection.sockets import is_link_local
from deployment.ollama_connection.timeouts import Timeouts

__all__ = ["Connection", "Events", "Timeouts", "encode", "is_link_local"]
