"""Renames a station. It never undoes the change of somebody else. (Or does it?)

    python3 tests/exercises/http_rest/rename.py 127.0.0.1:8080 oslo-1 Oslo
"""
import http.client
import json
import sys


def request(method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(sys.argv[1], timeout=10)
    headers = {"Content-Type": "application/json", **headers} if body else headers
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, response.getheader("ETag"), body


path, name = f"/stations/{sys.argv[2]}", sys.argv[3]
status, etag, station = request("GET", path)
print(f"{station['name']} becomes {name}. Press Enter to save it.", flush=True)
input()
while True:
    status, _, body = request("PUT", path, {**station, "name": name}, {"If-Match": etag})
    if status != 412:
        break
    _, etag, _ = request("GET", path)  # Somebody else was faster.
print(status, body)
