"""A producer and a consumer of jobs in Python, for the queues of the Rust programs.

    run produce rabbitmq --count 10
    run consume redis --count 10

It shares only names and messages with Rust. It uses RabbitMQ's queues but never declares
them: src/rabbitmq/topology.rs defines their properties.
"""

import argparse
import fcntl
import json
import os
import tempfile
import time
import uuid
from pathlib import Path

import pika
import redis

DAY = 24 * 60 * 60 * 1000
GROUP = "workers"


def example(batch, number):
    """Returns a job: the readings of a station for one day."""
    station, day = f"station-{number % 100}", 20454 + number // 100
    readings = [
        {
            "station": station,
            "metric": "temperature",
            "value": ((number * 7 + hour * 13) % 400 - 100) / 10,
            "recorded_at": day * DAY + hour * 60 * 60 * 1000,
        }
        for hour in range(24)
    ]
    return {"id": f"{batch}-{number}", "station": station, "day": day, "readings": readings}


def do(message, results):
    """Computes a job's summary. The effect happens once and survives a power cut, as in
    src/results.rs, which uses the same lock."""
    job = json.loads(message)
    metrics = {}
    for reading in job["readings"]:
        metrics.setdefault(reading["metric"], []).append(reading["value"])
    summary = {
        "job": job["id"],
        "station": job["station"],
        "day": job["day"],
        "metrics": {
            metric: {"count": len(v), "low": min(v), "mean": sum(v) / len(v), "high": max(v)}
            for metric, v in metrics.items()
        },
    }
    path = results / f"{job['id']}.json"
    with open(results / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Released with the file, even if this program crashes.
        new = not is_whole(path)
        if new:
            with tempfile.NamedTemporaryFile("w", dir=results, suffix=".tmp", delete=False) as file:
                json.dump(summary, file)
            os.replace(file.name, path)
    for synced in (path, results):
        descriptor = os.open(synced, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    print(f"{job['id']} done" if new else f"{job['id']} already done: a duplicate", flush=True)


def is_whole(path):
    """Returns whether there is a result with all of its content."""
    try:
        json.loads(path.read_bytes())
        return True
    except (FileNotFoundError, ValueError):  # A power cut may leave a name without content.
        return False


def produce_rabbitmq(url, prefix, jobs):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()  # Publishing then waits for the confirm, or raises.
    for job in jobs:
        properties = pika.BasicProperties(
            message_id=job["id"], content_type="application/json", delivery_mode=2
        )
        queue = f"{prefix}.jobs.v1"
        channel.basic_publish("", queue, json.dumps(job).encode(), properties, mandatory=True)
    channel.connection.close()


def consume_rabbitmq(url, prefix, count, results):
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.basic_qos(prefetch_count=16)
    for done, (method, _, body) in enumerate(channel.consume(f"{prefix}.jobs.v1"), 1):
        do(body, results)
        channel.basic_ack(method.delivery_tag)
        if done == count:
            break
    channel.cancel()
    channel.connection.close()


def produce_redis(url, prefix, jobs):
    client, key = redis.Redis.from_url(url), f"{prefix}:jobs:v1"
    for job in jobs:
        # Two producers could both take the last free place; the Rust producer uses a script.
        while client.xlen(key) >= 100_000:
            time.sleep(0.1)
        client.xadd(key, {"job": json.dumps(job)})


def consume_redis(url, prefix, count, results):
    client, key, me = redis.Redis.from_url(url), f"{prefix}:jobs:v1", f"python-{uuid.uuid4()}"
    try:
        client.xgroup_create(key, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    done = 0
    while done < count:
        reply = client.xreadgroup(GROUP, me, {key: ">"}, count=min(16, count - done), block=1000)
        for entry, fields in reply[0][1] if reply else []:
            do(fields[b"job"], results)
            with client.pipeline(transaction=True) as both:
                both.xack(key, GROUP, entry).xdel(key, entry).execute()
            done += 1
    client.xgroup_delconsumer(key, GROUP, me)


def main():
    parser = argparse.ArgumentParser(description="Produces or does jobs, as the Rust programs do")
    parser.add_argument("what", choices=["produce", "consume"])
    parser.add_argument("broker", choices=["rabbitmq", "redis"])
    parser.add_argument("--url")
    parser.add_argument("--prefix", default="weather")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--batch", default="python")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    standard = {
        "rabbitmq": os.environ.get("RABBITMQ_URL", "amqp://127.0.0.1:5672"),
        "redis": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"),
    }
    url = args.url or standard[args.broker]
    if args.what == "produce":
        jobs = [example(args.batch, number) for number in range(1, args.count + 1)]
        {"rabbitmq": produce_rabbitmq, "redis": produce_redis}[args.broker](url, args.prefix, jobs)
        print(f"all confirmed: {args.count}")
    else:
        args.results.mkdir(parents=True, exist_ok=True)
        consume = {"rabbitmq": consume_rabbitmq, "redis": consume_redis}[args.broker]
        consume(url, args.prefix, args.count, args.results)


if __name__ == "__main__":
    main()
