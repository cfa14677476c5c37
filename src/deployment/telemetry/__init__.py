"""What Ramsey tells about itself: one record per request, metrics, logs."""

from deployment.telemetry.logs import configure_logging, info_line
from deployment.telemetry.metrics import Metrics
from deployment.telemetry.record import RequestRecord
from deployment.telemetry.tallies import Count, Spread

__all__ = ["Count", "Metrics", "RequestRecord", "Spread", "configure_logging", "info_line"]
