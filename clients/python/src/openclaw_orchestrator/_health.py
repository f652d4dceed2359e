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
        self._stopped = asyncio.Event()

    def stop_serving(self) -> None:
        """From now on, and for good."""
        self._stopped.set()

    def handlers(self) -> dict[str, Any]:
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, bytes, bytes),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, bytes, bytes),
        }

    def _answer(self) -> bytes:
        # HealthCheckResponse { status = 1 }.
        return bytes([0x08, NOT_SERVING if self._stopped.is_set() else SERVING])

    async def _check(self, _: bytes, __: Any) -> bytes:
        return self._answer()

    async def _watch(self, _: bytes, __: Any) -> AsyncIterator[bytes]:
        if not self._stopped.is_set():
            yield self._answer()
            await self._stopped.wait()
        yield self._answer()
        # A watch lasts until its caller ends it.
        await asyncio.Event().wait()
