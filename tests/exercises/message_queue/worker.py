"""A worker on Redis: it counts the readings of each job.

    message_queue/python/.venv/bin/python tests/exercises/message_queue/worker.py \
        redis://127.0.0.1:6379 weather results 10
"""
import json
import pathlib
import sys
import uuid

import redis

url, prefix, results, count = sys.argv[1:]
client, jobs, me = redis.Redis.from_url(url), f"{prefix}:jobs:v1", f"worker-{uuid.uuid4()}"
try:
    client.xgroup_create(jobs, "workers", id="0", mkstream=True)
except redis.ResponseError:
    pass  # It exists.


def do(job):
    summary = {"job": job["id"], "count": len(job["readings"])}
    (pathlib.Path(results) / f"{job['id']}.json").write_text(json.dumps(summary))


done = 0
while done < int(count):
    reply = client.xreadgroup("workers", me, {jobs: ">"}, count=16, block=1000)
    entries = reply[0][1] if reply else []
    if entries:
        ids = [entry for entry, _ in entries]
        with client.pipeline(transaction=True) as acknowledge:
            acknowledge.xack(jobs, "workers", *ids).xdel(jobs, *ids).execute()
    for _, fields in entries:
        do(json.loads(fields[b"job"]))
        done += 1
