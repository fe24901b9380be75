"""What the service counts of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Counters:
    """Requests, refusals, seconds and groups; in a registry of their own, so that services do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        make = {"registry": self._registry, "namespace": "vpd"}
        self._requests = Counter("requests", "Requests by task and HTTP status.", ["task", "status"], **make)
        self._seconds = Histogram(
            "request_seconds", "From the first byte to the answer.", ["task"], buckets=_SECONDS, **make
        )
        self._group_seconds = Histogram("group_seconds", "A group of pictures.", buckets=_SECONDS, **make)
        self._group_pictures = Histogram("group_pictures", "Pictures of a group.", buckets=(1, 2, 4, 8, 16, 32), **make)
        self._waiting = Gauge("waiting_pictures", "Pictures that wait for the model.", **make)
        self._inside = Gauge("open_requests", "Requests that are received, wait or run.", **make)

    def watch(self, *, waiting: Callable[[], int], inside: Callable[[], int]) -> None:
        """Where the queue's length is to be asked."""
        self._waiting.set_function(waiting)
        self._inside.set_function(inside)

    def saw_request(self, task: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(task, str(status)).inc()
        self._seconds.labels(task).observe(seconds)

    def saw_group(self, pictures: int, seconds: float) -> None:
        """A group of pictures was run."""
        self._group_pictures.observe(pictures)
        self._group_seconds.observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
