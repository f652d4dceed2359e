import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Upper(BaseHTTPRequestHandler):
    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = json.dumps(payload.upper()).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Upper).serve_forever()
