"""What Ramsey tells about itself: one record per request, metrics, logs."""

from deployment.telemetry.logs import configure_logging, info_line
from deployment.telemetry.metrics import Metrics
from deployment.telemetry.record import RequestRecord

__all__ = ["Metrics", "RequestRecord", "configure_logging", "info_line"]
