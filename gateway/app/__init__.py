"""The composition root: settings in, wired objects out. The only room that names concrete steps, stores and sources."""

from gateway.app.compose import GatewayApp
from gateway.app.live import Live, source_names
from gateway.app.part import ADMIN, PUBLIC, Part, listeners, settled
from gateway.app.registry import REGISTRY, STEP_FOLDERS

__all__ = ["ADMIN", "PUBLIC", "REGISTRY", "STEP_FOLDERS", "GatewayApp", "Live", "Part", "listeners", "settled", "source_names"]
