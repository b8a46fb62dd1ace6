"""Makes all four kinds of call to the weather server.

    grpc/python/setup
    grpc/python/.venv/bin/python grpc/python/client.py 127.0.0.1:50051

With --ca, it calls a server that was started with --tls.
"""

import argparse
import queue
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from weather.v1 import weather_pb2 as weather
from weather.v1.weather_pb2_grpc import WeatherServiceStub

# The timeout of each call, so that no call waits forever.
SECONDS = 20


def show(text):
    """Prints a line, with escapes for the characters that a terminal would obey or hide."""
    print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def reading(metric, value):
    return weather.Reading(station="rome-1", metric=metric, value=value, recorded_at=1767225600000)


def record(stub):
    batch = [reading(weather.METRIC_TEMPERATURE, 21.5), reading(weather.METRIC_HUMIDITY, 40)]
    response = stub.Record(weather.RecordRequest(readings=batch), timeout=SECONDS)
    show(f"Record: accepted {response.accepted}")


def watch(stub):
    responses = stub.Watch(weather.WatchRequest(station="rome-1", newest=2), timeout=SECONDS)
    seen = []
    for response in responses:
        if response.WhichOneof("event") == "recorded":
            recorded = response.recorded
            metric = weather.Metric.Name(recorded.reading.metric).removeprefix("METRIC_").lower()
            seen.append(f"{len(seen) + 1} {metric} {recorded.reading.value}")
        if len(seen) == 2:
            responses.cancel()
            break
    show("Watch: " + ", ".join(seen))


def upload(stub):
    values = [21.6, 999, 21.7]
    requests = (weather.UploadRequest(reading=reading(weather.METRIC_TEMPERATURE, v)) for v in values)
    summary = stub.Upload(requests, timeout=SECONDS)
    reasons = ", ".join(f"message {r.index} {r.field}" for r in summary.rejections)
    show(f"Upload: accepted {summary.accepted}, rejected {summary.rejected}: {reasons}")


def monitor(stub):
    requests = queue.SimpleQueue()  # None ends the stream
    responses = stub.Monitor(iter(requests.get, None), timeout=SECONDS)
    hot = weather.Threshold(id="hot", station="rome-1", metric=weather.METRIC_TEMPERATURE, above=30)
    requests.put(weather.MonitorRequest(add=hot))
    seen = [f"added {next(responses).added}"]
    batch = [reading(weather.METRIC_TEMPERATURE, 31)]
    stub.Record(weather.RecordRequest(readings=batch), timeout=SECONDS)
    alert = next(responses).alert
    seen.append(f"alert {alert.id} {alert.recorded.reading.value}")
    requests.put(weather.MonitorRequest(remove="hot"))
    seen.append(f"removed {next(responses).removed}")
    requests.put(None)
    assert list(responses) == []
    show("Monitor: " + ", ".join(seen))


def failures(stub):
    try:
        batch = [reading(weather.METRIC_WIND, 999)]
        stub.Record(weather.RecordRequest(readings=batch), timeout=SECONDS)
    except grpc.RpcError as error:
        bad = error_details_pb2.BadRequest()
        rpc_status.from_call(error).details[0].Unpack(bad)
        violation = bad.field_violations[0]
        show(f"{error.code().name}: {violation.field} {violation.description}")
    try:
        list(stub.Watch(weather.WatchRequest(station="rome-1"), timeout=0.2))
    except grpc.RpcError as error:
        print(error.code().name)


def connect(args):
    if not args.ca:
        return grpc.insecure_channel(args.address)
    key = certificate = None
    if args.identity:
        certificate = Path(args.identity).read_bytes()
        key = Path(args.identity.removesuffix(".pem") + "-key.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(Path(args.ca).read_bytes(), key, certificate)
    return grpc.secure_channel(args.address, credentials)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?", default="127.0.0.1:50051")
    parser.add_argument("--ca", help="trust servers with a certificate from this authority, a PEM file")
    parser.add_argument("--identity", help="show this certificate, a PEM file; its key is in …-key.pem")
    with connect(parser.parse_args()) as channel:
        stub = WeatherServiceStub(channel)
        for step in (record, watch, upload, monitor, failures):
            step(stub)


if __name__ == "__main__":
    main()
