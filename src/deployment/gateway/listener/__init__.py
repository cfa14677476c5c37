"""What stands between the network and the application: TLS, bounds, proxies, headers of every answer."""

from deployment.gateway.listener.connection import CallerConnection, caller_of, connection_of
from deployment.gateway.listener.headers import fixed_headers
from deployment.gateway.listener.proxies import TrustedProxies
from deployment.gateway.listener.server import bind, listen, load_certificates, server_config

__all__ = [
    "CallerConnection",
    "TrustedProxies",
    "bind",
    "caller_of",
    "connection_of",
    "fixed_headers",
    "listen",
    "load_certificates",
    "server_config",
]
