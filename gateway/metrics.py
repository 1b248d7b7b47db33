"""`/metrics`: what the gateway does, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from camfabric.common.status import LIVE
from camfabric.gateway.caller import Caller, caller_of
from camfabric.gateway.hub import HUB, Hub

__all__ = ["metrics"]


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: of the cameras, those that the caller may see."""
    registry = CollectorRegistry()
    registry.register(_Figures(request.app[HUB], caller_of(request)))
    return web.Response(
        body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"}
    )


class _Figures(Collector):
    def __init__(self, hub: Hub, caller: Caller) -> None:
        self._hub = hub
        self._caller = caller

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now; the gateway's own, which tell of all cameras, only for who may see all."""
        if self._caller.sees_all:
            yield from self._gateway()
        yield from self._cameras()

    def _gateway(self) -> Iterator[Metric]:
        hub = self._hub
        yield _gauge("connected", "Whether something was heard from the fabric lately.", hub.fabric.is_connected())
        yield _gauge("viewers", "Pages and MJPEG streams that are open.", hub.guests)
        yield _gauge("viewer_streams", "Streams that pages watch.", sum(viewer.streams for viewer in hub.viewers))
        yield _gauge("snapshots_waiting", "Snapshots that wait for a picture.", hub.snapshots.total())
        yield _counter("frames_sent", "Frames sent to pages.", hub.counts.sent)
        yield _counter("frames_sent_bytes", "Bytes of them.", hub.counts.sent_bytes)
        yield _counter("frames_dropped", "Frames left out because a page was slow.", hub.counts.dropped)
        yield _counter("frames_received", "Frames that came from the fabric.", hub.feeds.received)
        yield _counter("pictures_made", "Pictures made into JPEG here.", hub.workshop.made)
        yield self._served()
        yield self._bad()

    def _served(self) -> Metric:
        served = CounterMetricFamily("camfabric_gateway_requests", "Requests for pictures by kind.", labels=["kind"])
        for kind in ("snapshot", "mjpeg", "stream", "refused"):
            served.add_metric([kind], self._hub.served[kind])
        return served

    def _bad(self) -> Metric:
        bad = CounterMetricFamily(
            "camfabric_gateway_bad_messages", "Messages from the fabric that were none, by reason.", labels=["reason"]
        )
        for reason, count in self._hub.fabric.counts().items():
            bad.add_metric([reason], count)
        return bad

    def _cameras(self) -> Iterator[Metric]:
        live = GaugeMetricFamily("camfabric_camera_live", "Whether a camera is live.", labels=["camera", "state"])
        fps = GaugeMetricFamily("camfabric_camera_fps", "Pictures a second from its source.", labels=["camera"])
        watched = GaugeMetricFamily("camfabric_camera_watched", "Whether this gateway takes it.", labels=["camera"])
        taken = {feed.key[1] for feed in self._hub.feeds.all()}
        for name in filter(self._caller.sees, self._hub.cameras.names()):
            if (status := self._hub.cameras.status(name)) is not None:
                live.add_metric([name, status.state], status.state == LIVE)
                fps.add_metric([name], status.fps_in)
                watched.add_metric([name], name in taken)
        yield from (live, fps, watched)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"camfabric_gateway_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"camfabric_gateway_{name}", text, value=value)
