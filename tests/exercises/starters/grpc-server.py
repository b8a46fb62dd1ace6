"""The beginning of a server for the gRPC chapter: it accepts every batch, and keeps nothing.

    grpc/python/setup
    cargo run --bin check -- grpc \
        --server 'grpc/python/.venv/bin/python tests/exercises/starters/grpc-server.py {addr}'
"""
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from weather.v1 import weather_pb2 as weather
from weather.v1.weather_pb2_grpc import WeatherServiceServicer, add_WeatherServiceServicer_to_server


class Service(WeatherServiceServicer):  # Your part: Watch, Upload, and Monitor.
    def Record(self, request, context):
        return weather.RecordResponse(accepted=len(request.readings))


server = grpc.server(ThreadPoolExecutor(max_workers=32))
add_WeatherServiceServicer_to_server(Service(), server)
server.add_insecure_port(sys.argv[1])
server.start()
server.wait_for_termination()
