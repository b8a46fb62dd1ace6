"""The beginning of a client for the queue chapter, on Redis: it sends a request, and takes any
message for the reply.

    cargo run --bin check -- message_queue-client \
        --client 'python3 tests/exercises/starters/message_queue-client.py {url} {prefix}'
"""
import json
import socket
import sys
import time
import uuid


def connect(url):
    host, port = url.removeprefix("redis://").split(":")
    return socket.create_connection((host, int(port))).makefile("rwb")


def command(connection, *words):
    """Sends a command over RESP, and reads the reply."""
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words)]
    connection.write(b"*%d\r\n" % len(words) + b"".join(parts))
    connection.flush()
    return receive(connection)


def receive(connection):
    sign, rest = (line := connection.readline())[:1], line[1:-2]
    if sign == b"*":
        return [receive(connection) for _ in range(int(rest))]
    return connection.read(int(rest) + 2)[:-2] if sign == b"$" else rest


url, prefix, *_, station, metric, value = sys.argv[1:]
reply_to = f"{prefix}:reply:{uuid.uuid4().hex}"
replies = connect(url)
command(replies, "SUBSCRIBE", reply_to)
reading = {"station": station, "metric": metric, "value": float(value), "recorded_at": int(time.time() * 1000)}
request = {"id": 1, "reply_to": reply_to, "readings": [reading]}
command(connect(url), "PUBLISH", f"{prefix}:record:v1", json.dumps(request))
print(receive(replies))  # Your part: look at the reply, and don't wait forever.
