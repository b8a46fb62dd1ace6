"""A station behind a bad network: it records three readings, and sends again what got lost.

    python3 tests/exercises/tcp_socket/station.py 127.0.0.1:7878
"""
import os
import socket
import struct
import sys

RECORD, RECORDED, TEMPERATURE = 0x001, 0x101, 1


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the server closed the connection")
        data += piece
    return data


def connect():
    host, port = sys.argv[1].split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(b"WSTN" + struct.pack(">HH", 1, 1) + os.urandom(16))
    exactly(connection, 40)  # WELCOME
    return connection


def record(connection, batch_id, value):
    payload = struct.pack(">QB6sHBdQ", batch_id, 6, b"oslo-1", 1, TEMPERATURE, value, 1767225600000)
    header = struct.pack(">HHII", RECORD, 0, batch_id, len(payload))
    connection.sendall(header + struct.pack(">I", crc32c(header + payload)) + payload)
    kind, _, request_id, length, _ = struct.unpack(">HHIII", exactly(connection, 16))
    exactly(connection, length)
    assert (kind, request_id) == (RECORDED, batch_id), f"kind {kind:x} for request {request_id}"


connection = connect()
for number, value in enumerate([-3.5, -3.0, -2.5], 1):
    while True:
        try:
            record(connection, number, value)
            break
        except OSError as error:
            print(f"{error}: sending batch {number} again")
            connection = connect()
    print(f"batch {number} is recorded")
