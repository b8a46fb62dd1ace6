"""Follows a station. If the connection breaks, it continues where it was.

    grpc/python/.venv/bin/python tests/exercises/grpc/follow.py 127.0.0.1:50051 oslo-1
"""
import sys
import time

import grpc
from weather.v1 import weather_pb2 as weather
from weather.v1.weather_pb2_grpc import WeatherServiceStub

addr, station = sys.argv[1:]
channel = grpc.insecure_channel(addr, [("grpc.initial_reconnect_backoff_ms", 100)])
stub = WeatherServiceStub(channel)
request = weather.WatchRequest(station=station, newest=2)
seen, instance = 0, 0
while True:
    try:
        for response in stub.Watch(request):
            if response.WhichOneof("event") == "started":
                instance = response.started.boot_id
                continue
            seen += 1
            print(response.recorded.sequence, response.recorded.reading.value, flush=True)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            sys.exit(f"{error.code().name}: {error.details()}")
    time.sleep(0.1)
    position = weather.Position(boot_id=instance, sequence=seen)
    request = weather.WatchRequest(station=station, after=position)
