import asyncio

from openclaw_orchestrator import Call, Instance, Json


class Upper(Instance):
    async def execute(self, payload: Json, call: Call) -> Json:
        return str(payload).upper()


asyncio.run(Upper("upper").run(orchestrator="127.0.0.1:7070"))
