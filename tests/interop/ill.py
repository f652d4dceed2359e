"""A fleet, a disk and a collector with which something is wrong, each as the test says."""

import contextlib
import resource
import socket

from conftest import BEARER, Client
from odd_collector import OddCollector
from operators import Operators, started, value
from refusing_instance import RefusingInstance
from waiting import LONG, until

FEW_BYTES = 4096
"""Longer no file may grow: less than any journal has."""


class Ill:
    def __init__(self, folder, stubs):
        self.collector = OddCollector()
        self.instance, self.late = RefusingInstance(), RefusingInstance()
        self.instance.listen()
        # Takes connections, and says nothing on them.
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.mute = "%s:%d" % self.silent.getsockname()
        self.orchestrator = started(
            folder,
            instances=[
                *({"id": f"w{at}", "builtin": {}} for at in range(1, 33)),
                {"id": "odd", "address": self.instance.address},
                {"id": "late", "address": self.late.address},
                {"id": "leaving", "builtin": {}, "state": "draining"},
                {"id": "out", "builtin": {}, "state": "disabled"},
            ],
            health={
                **{"interval": "100ms", "timeout": "1s", "successes_up": 1, "ejection": {"percent_max": 0}},
                # Whoever has never answered stays as it is.
                "failures_down": 1000,
            },
            traces={"endpoint": f"http://{self.collector.address}", "ratio": 1},
        )
        self.operators = Operators(self.orchestrator)
        self.client = Client(stubs, self.orchestrator.address)
        self.registered = 0
        self.is_seen_as("odd", "HEALTHY")

    def is_seen_as(self, id, state):
        until(lambda: self.client.state(id), lambda seen: seen == f"HEALTH_STATE_{state}")

    def registers(self, id, address):
        """Anew each time: nothing is known of it."""
        self.registered += 1
        instance = self.client.messages.Instance(id=id, address=address)
        request = self.client.messages.RegisterRequest(instance=instance, incarnation=self.registered)
        self.client.cluster.Register(request, metadata=BEARER, timeout=LONG)

    @contextlib.contextmanager
    def working(self):
        """The instance has a call, and answers nothing else."""
        call = self.client.route_later(["odd"], value("hold"))
        try:
            self.is_seen_as("odd", "BUSY")
            yield
        finally:
            call.cancel()
        self.is_seen_as("odd", "HEALTHY")

    @contextlib.contextmanager
    def without_room(self):
        """What the journal writes fails, as on a disk that is full. The limit that is lifted later is the soft one."""
        process, unlimited = self.orchestrator.child.pid, resource.RLIM_INFINITY
        resource.prlimit(process, resource.RLIMIT_FSIZE, (FEW_BYTES, unlimited))
        try:
            yield
        finally:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (unlimited, unlimited))
        until(lambda: self.operators.sum("orchestrator_journal_ready"), lambda ready: ready == 1)

    def end(self):
        self.client.channel.close()
        self.orchestrator.end()
        self.collector.end()
        self.silent.close()
        for instance in (self.instance, self.late):
            instance.end()
