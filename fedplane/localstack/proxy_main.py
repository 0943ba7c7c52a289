"""Both event proxies and their control port in one process: ``python -m fedplane.localstack.proxy_main CONFIG.json``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from fedplane.localstack.blob_watcher import BlobWatcher
from fedplane.localstack.faults import Faults, check
from fedplane.localstack.proxy import Proxy
from fedplane.localstack.vast_watcher import VastWatcher

_DRAIN_SECONDS = 5.0


class ProxyConfig(msgspec.Struct, kw_only=True):
    """What the process needs to know. Ports are on loopback; upstreams are ``http://127.0.0.1:port``."""

    blob_port: int
    vast_port: int
    control_port: int
    blob_upstream: str
    queue_upstream: str
    queue: str
    blob_public: str
    s3_upstream: str
    access_key: str
    secret_key: str
    bootstrap: str
    topic: str
    raw_keys: bool = False
    blob_faults: Faults = msgspec.field(default_factory=Faults)
    vast_faults: Faults = msgspec.field(default_factory=Faults)


class Proxies:
    """The two proxies and what controls them."""

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config
        blob = BlobWatcher(config.blob_upstream, config.queue_upstream, config.queue, config.blob_public)
        keys = (config.access_key, config.secret_key)
        vast = VastWatcher(config.s3_upstream, keys, config.bootstrap, config.topic, raw_keys=config.raw_keys)
        self._watchers: dict[str, BlobWatcher | VastWatcher] = {"blob": blob, "vast": vast}
        self._proxies = {"blob": Proxy(config.blob_upstream, blob), "vast": Proxy(config.s3_upstream, vast)}
        self._faults = {"blob": config.blob_faults, "vast": config.vast_faults}
        self._runners: list[web.ServerRunner | web.AppRunner] = []

    async def open(self) -> None:
        """Listen."""
        for name, port in (("blob", self._config.blob_port), ("vast", self._config.vast_port)):
            self._configure(name, self._faults[name])
            await self._watchers[name].open()
            await self._proxies[name].open()
            await self._listen(web.ServerRunner(web.Server(self._handler(name), access_log=None)), port)
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/stats/reset", self._reset)
        app.router.add_get("/listings/{side}", self._listings)
        app.router.add_get("/faults/{side}", self._get_faults)
        app.router.add_put("/faults/{side}", self._put_faults)
        await self._listen(web.AppRunner(app, access_log=None), self._config.control_port)

    def _handler(self, name: str) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        return self._proxies[name].handle

    async def _listen(self, runner: web.ServerRunner | web.AppRunner, port: int) -> None:
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=2).start()

    async def close(self) -> None:
        """Stop listening, then deliver what was confirmed."""
        for runner in self._runners:
            await runner.cleanup()
        for name, proxy in self._proxies.items():
            await proxy.close()
            await self._watchers[name].close(_DRAIN_SECONDS)

    def _configure(self, name: str, faults: Faults) -> None:
        check(faults)
        self._faults[name] = faults
        self._proxies[name].configure(faults.requests)
        self._watchers[name].delivery.configure(faults.events)

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.json_response({"status": "ok"})

    async def _stats(self, request: web.Request) -> web.Response:
        del request
        return web.json_response(
            {
                name: {**proxy.stats(), "events": dict(self._watchers[name].delivery.counts)}
                for name, proxy in self._proxies.items()
            }
        )

    async def _reset(self, request: web.Request) -> web.Response:
        del request
        for name, proxy in self._proxies.items():
            proxy.reset()
            self._watchers[name].delivery.counts.clear()
        return web.json_response({"reset": True})

    async def _listings(self, request: web.Request) -> web.Response:
        """The list pages that were asked for, oldest first."""
        side = request.match_info["side"]
        if side not in self._proxies:
            return _no_side(side)
        return web.json_response([{"client": who, "query": query} for who, query in self._proxies[side].listings])

    async def _get_faults(self, request: web.Request) -> web.Response:
        side = request.match_info["side"]
        if side not in self._faults:
            return _no_side(side)
        return web.Response(body=msgspec.json.encode(self._faults[side]), content_type="application/json")

    async def _put_faults(self, request: web.Request) -> web.Response:
        side = request.match_info["side"]
        if side not in self._faults:
            return _no_side(side)
        try:
            self._configure(side, msgspec.json.decode(await request.read(), type=Faults))
        except (msgspec.DecodeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self._get_faults(request)


def _no_side(side: str) -> web.Response:
    return web.json_response({"error": f"no side {side!r}; blob or vast"}, status=404)


async def serve(config: ProxyConfig) -> None:
    """Run until terminated."""
    stop = asyncio.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stop.set)
    proxies = Proxies(config)
    await proxies.open()
    await stop.wait()
    await proxies.close()


def main() -> None:
    """Read the configuration and serve."""
    asyncio.run(serve(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ProxyConfig)))


if __name__ == "__main__":
    main()
