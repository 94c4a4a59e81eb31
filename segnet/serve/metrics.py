"""Counters for Prometheus, without identifiers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from segnet.serve.jobs import Jobs


class Metrics:
    """Requests by route, and jobs by state."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "segnet_requests", "Requests answered", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "segnet_request_seconds", "Time to the answer", ("method", "route"), registry=self.registry
        )
        self._jobs = Gauge("segnet_jobs", "Jobs in the database", ("state",), registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answer. `route` is the pattern of the path, so that no number of a lesion is kept."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        counts = self.jobs.counts()
        for state in ("queued", "running", "done", "failed", "cancelled"):
            self._jobs.labels(state).set(counts.get(state, 0))
        return generate_latest(self.registry)
