"""The beginning of a worker for the queue chapter, on Redis: it does jobs, and forgets to say so.

    cargo run --bin check -- message_queue-worker \
        --worker 'python3 tests/exercises/starters/message_queue-worker.py {url} {prefix} {results}'
"""
import json
import pathlib
import socket
import sys
import uuid


class Redis:
    """Sends commands over RESP, and reads the replies."""

    def __init__(self, url):
        host, port = url.removeprefix("redis://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.file = self.socket.makefile("rb")

    def command(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
        return self.reply()

    def reply(self):
        sign, rest = (line := self.file.readline())[:1], line[1:-2]
        if sign == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if sign == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        return RuntimeError(rest.decode()) if sign == b"-" else int(rest) if sign == b":" else rest


def do(job, results):
    metrics = {}
    for reading in job["readings"]:
        metrics.setdefault(reading["metric"], []).append(reading["value"])
    for metric, values in metrics.items():
        mean = sum(values) / len(values)
        metrics[metric] = {"count": len(values), "low": min(values), "mean": mean, "high": max(values)}
    summary = {"job": job["id"], "station": job["station"], "day": job["day"], "metrics": metrics}
    (results / f"{job['id']}.json").write_text(json.dumps(summary))


url, prefix, results = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
redis, jobs, me = Redis(url), f"{prefix}:jobs:v1", uuid.uuid4()
redis.command("XGROUP", "CREATE", jobs, "workers", "0", "MKSTREAM")  # An error says that it exists.
while True:
    reply = redis.command("XREADGROUP", "GROUP", "workers", me, "BLOCK", 500, "STREAMS", jobs, ">")
    for entry, fields in reply[0][1] if reply else []:
        do(json.loads(fields[1]), results)  # Your part: acknowledge the job.
