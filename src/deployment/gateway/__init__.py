"""An inference request from wire to wire."""

from deployment.gateway.body import BoundedBodies
from deployment.gateway.direct import Application
from deployment.gateway.drain import Drainer
from deployment.gateway.envelope import Envelope
from deployment.gateway.health import health_routes
from deployment.gateway.nodes import node_routes
from deployment.gateway.openapi import document
from deployment.gateway.routes import BODIES, native_routes, ollama_routes, openai_routes
from deployment.gateway.service import Gateway

__all__ = [
    "BODIES",
    "Application",
    "BoundedBodies",
    "Drainer",
    "Envelope",
    "Gateway",
    "document",
    "health_routes",
    "native_routes",
    "node_routes",
    "ollama_routes",
    "openai_routes",
]
