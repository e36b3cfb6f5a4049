"""The counts of several processes as one. They live in files in memory, one set a process, so that nobody's death loses any.

This is prometheus-client's multiprocess mode, without its traps: files are named by a number that a successor takes over (not by process
id, or each restart would leave files behind for ever), the mode is switched on in the child and not by the environment at import, and the
folder is ours alone and made anew at each start.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_MEMORY = Path("/dev/shm")  # noqa: S108 -- the folder made in it has a random name and mode 0700


class SharedMetrics:
    """Made once, before the processes; `remove` it at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stepup-metrics-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))

    def join(self, name: str) -> None:
        """From here on, metrics that are made in this process count under `name`, from where its last bearer ended. Two living processes
        must not have one name; it has no underscore."""
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self.folder)
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]

    def left(self, name: str) -> None:
        """The bearer of a name has ended: what it counted stays, what it held (gauges) is gone."""
        mark_process_dead(name, str(self.folder))  # type: ignore[no-untyped-call]

    def text(self) -> bytes:
        """All of it, in the Prometheus exposition format."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.folder))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Mirror:
    """Copies what a collector makes up from plain numbers to where the processes share their counts. A predecessor's stay: what is added
    is what has come since the last copy."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._cells: dict[tuple[str, tuple[str, ...]], tuple[Any, list[float]]] = {}

    def copy(self) -> None:
        for metric in self._collector.collect():
            below = 0.0
            for sample in metric.samples:
                value = sample.value
                if metric.type == "histogram":
                    if sample.name.endswith("_count"):  # comes of the buckets
                        continue
                    if sample.name.endswith("_bucket"):  # kept one by one, added up by who reads them
                        value, below = (value - below, value) if sample.labels["le"] != "+Inf" else (value - below, 0.0)
                self._put(metric, sample, value)

    def _put(self, metric: Metric, sample: Sample, value: float) -> None:
        place = (sample.name, tuple(sample.labels.values()))
        cell = self._cells.get(place)
        if cell is None:
            made = values.ValueClass(
                metric.type, metric.name, sample.name, tuple(sample.labels), place[1], metric.documentation, multiprocess_mode="livesum"
            )
            cell = self._cells[place] = (made, [0.0])
        made, last = cell
        if metric.type == "gauge":
            made.set(value)
        elif value != last[0]:
            made.inc(value - last[0])
            last[0] = value
