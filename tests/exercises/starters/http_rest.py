"""The beginning of a server for the HTTP chapter: it creates stations and returns them.

    cargo run --bin check -- http_rest --server 'python3 tests/exercises/starters/http_rest.py {addr}'
"""
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

stations = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def send(self, status, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        station = stations.get(self.path.removeprefix("/stations/"))
        if self.path == "/stations":
            self.send(200, {"stations": list(stations.values())})
        elif station:
            self.send(200, station, ETag='"1"')
        else:
            self.send(404, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/stations":
            return self.send(404, {})
        station = json.loads(body)
        stations[station["id"]] = station
        self.send(201, station, Location="/stations/" + station["id"], ETag='"1"')

    def log_message(self, *args):  # `check` shows what traveled.
        pass


host, port = sys.argv[1].rsplit(":", 1)
ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
