"""An instance at the level of HTTP/2, for what no gRPC server does by itself, in threads of the test.

What it does with a call stands in the payload: `refuse` resets its stream as one that never began, `hold` leaves it
without an answer until its caller resets it. Everything else it answers as a server that knows no such method, which
from a probe of health means that it is well; but while it holds a call it answers no probe.
"""

import contextlib
import socket
import threading

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

ANSWER = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")]


class RefusingInstance:
    def __init__(self):
        self.listener = socket.socket()
        # Bound and not listening: until then every connection is refused, and nobody else gets the port.
        self.listener.bind(("127.0.0.1", 0))
        host, port = self.listener.getsockname()
        self.address = f"{host}:{port}"
        self.held = threading.Event()

    def listen(self):
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self):
        with contextlib.suppress(OSError):
            # Wakes who accepts, if anybody does.
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        bodies, holding = {}, set()
        try:
            with connection:
                connection.sendall(http.data_to_send())
                while received := connection.recv(65_536):
                    for event in http.receive_data(received):
                        self._hears(http, event, bodies, holding)
                    connection.sendall(http.data_to_send())
        finally:
            if holding:
                self.held.clear()

    def _hears(self, http, event, bodies, holding):
        match event:
            case DataReceived():
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                # Its caller may have left already.
                with contextlib.suppress(ProtocolError):
                    self._does(http, event.stream_id, bodies.pop(event.stream_id, b""), holding)
            case StreamReset() if event.stream_id in holding:
                holding.remove(event.stream_id)
                self.held.clear()

    def _does(self, http, stream, body, holding):
        if b"refuse" in body:
            http.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        elif b"hold" in body:
            holding.add(stream)
            self.held.set()
        elif not self.held.is_set():
            http.send_headers(stream, ANSWER, end_stream=True)
