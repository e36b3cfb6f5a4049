"""The fast lane: carries what is allowed, and hands everything else over to the slow lane, connection and bytes read so far."""

from gateway.lanes.fast.client import FastConnection
from gateway.lanes.fast.lane import FastLane

__all__ = ["FastConnection", "FastLane"]
