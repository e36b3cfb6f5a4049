"""The lanes' counts, and what Prometheus reads of them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.flow.traffic import OWN_SECONDS, UPSTREAM_SECONDS, Histogram, Traffic
from gateway.telemetry.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in families for sample in family.samples}


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


@pytest.mark.parametrize("bounds", [UPSTREAM_SECONDS, OWN_SECONDS])
def test_a_bucket_holds_its_upper_end(bounds: tuple[float, ...]) -> None:
    histogram = Histogram(bounds)
    for bound in bounds:
        histogram.observe(bound)
    histogram.observe(bounds[-1] * 2)
    assert histogram.counts == [1] * (len(bounds) + 1)
    assert histogram.total == pytest.approx(sum(bounds) + bounds[-1] * 2)


def test_what_is_counted_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    bank = metrics.traffic.upstream("bank")
    bank.exchange(200, waited=0.003, own=0.0002, sent=10, received=1000)
    bank.exchange(204, waited=0.2, own=0.0002, sent=0, received=0)
    bank.exchange(503, waited=99.0, own=9.0, sent=1, received=2)
    bank.retries += 1
    bank.tunnels += 2
    bank.tunnel_closed("revoked")
    found = samples(metrics)
    of_bank = {"upstream": "bank"}
    assert found["stepup_upstream_responses_total", labels(**of_bank, status="2xx")] == 2
    assert found["stepup_upstream_responses_total", labels(**of_bank, status="5xx")] == 1
    assert found["stepup_body_bytes_total", labels(**of_bank, to="upstream")] == 11
    assert found["stepup_body_bytes_total", labels(**of_bank, to="client")] == 1002
    assert found["stepup_upstream_retries_total", labels(**of_bank)] == 1
    assert found["stepup_tunnels", labels(**of_bank)] == 1
    assert found["stepup_tunnels_closed_total", labels(**of_bank, reason="revoked")] == 1
    waited = {
        end: found["stepup_upstream_seconds_bucket", labels(**of_bank, le=end)] for end in ("0.0025", "0.005", "0.25", "60.0", "+Inf")
    }
    assert waited == {"0.0025": 0, "0.005": 1, "0.25": 2, "60.0": 2, "+Inf": 3}
    assert found["stepup_upstream_seconds_count", labels(**of_bank)] == 3
    assert found["stepup_upstream_seconds_sum", labels(**of_bank)] == pytest.approx(99.203)
    assert found["stepup_gateway_seconds_bucket", labels(**of_bank, le="0.00025")] == 2


def test_an_upstream_is_one_object_for_good() -> None:
    traffic = Traffic()
    assert traffic.upstream("bank") is traffic.upstream("bank")
    assert traffic.upstream("bank") is not traffic.upstream("shop")


@pytest.mark.parametrize("status", [0, 99, 600, 999])
def test_a_status_that_is_none_is_counted_apart(status: int) -> None:
    metrics = Metrics()
    metrics.traffic.upstream("bank").exchange(status, 0.0, 0.0, 0, 0)
    assert samples(metrics)["stepup_upstream_responses_total", labels(upstream="bank", status="odd")] == 1


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("slow_reader", "stepup_refusals_total"),
        ("too_many_connections", "stepup_refusals_total"),
        ("keepalive", "stepup_client_closed_total"),
        ("unused", "stepup_client_closed_total"),
    ],
)
def test_what_only_was_not_needed_any_longer_is_no_refusal(reason: str, name: str) -> None:
    metrics = Metrics()
    metrics.cut(reason)
    found = samples(metrics)
    assert {key[0] for key, value in found.items() if dict(key[1]).get("reason") == reason and key[0].endswith("_total")} == {name}
    assert found[name, labels(reason=reason)] == 1
