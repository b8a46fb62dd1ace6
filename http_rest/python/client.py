#!/usr/bin/env python3
"""A client of the HTTP chapter, with Python's standard library alone.

    python3 http_rest/python/client.py 127.0.0.1:8080

It does what the tour does: it creates a station, reads and changes it, records readings, and
deletes the station.
"""
import http.client
import json
import sys


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py HOST:PORT")
    connection = http.client.HTTPConnection(sys.argv[1], timeout=10)

    def send(method, path, body=None, **headers):
        """Sends a request, prints the response's status, and returns ETag and body."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            headers = {"content-type": "application/json", **headers}
            body = json.dumps(body)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
        # The server may close a connection between two requests, as it does after it has refused a
        # request without reading its body. So each request gets a connection of its own.
        connection.close()
        print(method, path, response.status, text)
        return response.headers["etag"], json.loads(text or "null")

    oslo = {"id": "python-1", "name": "Oslo", "latitude": 59.94, "longitude": None}
    first, _ = send("POST", "/stations", oslo)
    send("GET", "/stations/python-1")
    send("GET", "/stations/python-1", if_none_match=first)  # 304: it has not changed.
    second, _ = send("PATCH", "/stations/python-1", {"longitude": 10.72}, if_match=first,
                     content_type="application/merge-patch+json")
    send("PUT", "/stations/python-1", oslo, if_match=first)  # 412: this would undo the change.
    reading = {"station": "python-1", "metric": "wind", "value": 7.2, "recorded_at": 1767225601000}
    for _ in range(2):  # The key makes the request safe to repeat: it is executed once.
        send("POST", "/readings", {"readings": [reading]}, idempotency_key="python-1")
    send("GET", "/readings?station=python-1")
    impossible = {**reading, "metric": "humidity", "value": 130}
    _, problem = send("POST", "/readings", {"readings": [reading, impossible]})
    print("invalid:", problem["errors"][0]["pointer"])
    send("DELETE", "/stations/python-1", if_match=second)
    send("GET", "/stations/python-1")


try:
    main()
except OSError as error:
    sys.exit(f"error: no server at {sys.argv[1]}: {error}")
