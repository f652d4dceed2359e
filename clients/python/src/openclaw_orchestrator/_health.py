"""grpc.health.v1 for one server, by hand: two messages of one field each, and no dependency for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING = 1, 2


class Health:
    """Says whether this process serves; the name of the service that is asked for does not matter."""

    def __init__(self) -> None:
        self._serving = True
        self._changed = asyncio.Condition()

    def set_serving(self, serving: bool) -> None:
        """Watchers are told at their next look."""
        self._serving = serving

        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._telling = asyncio.ensure_future(tell())

    def handlers(self) -> dict[str, Any]:
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, bytes, bytes),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, bytes, bytes),
        }

    def _answer(self) -> bytes:
        # HealthCheckResponse { status = 1 }.
        return bytes([0x08, SERVING if self._serving else NOT_SERVING])

    async def _check(self, _: bytes, __: Any) -> bytes:
        return self._answer()

    async def _watch(self, _: bytes, __: Any) -> AsyncIterator[bytes]:
        while True:
            told = self._serving
            yield self._answer()
            async with self._changed:
                while self._serving == told:
                    await self._changed.wait()
