"""The beginning of a server for the Weather Station Protocol: it only does the handshake.

    cargo run --bin check -- tcp_socket --server 'python3 tests/exercises/starters/tcp_socket.py {addr}'
"""
import os
import socket
import struct
import sys
import threading

ERROR, BAD_MAGIC, UNSUPPORTED_VERSION = 0x1FF, 1, 2
INSTANCE_ID = os.urandom(16)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def send(connection, kind, request_id, payload=b"", flags=0):
    header = struct.pack(">HHII", kind, flags, request_id, len(payload))
    connection.sendall(header + struct.pack(">I", crc32c(header + payload)) + payload)


def exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def serve(connection):
    try:
        hello = exactly(connection, 4)
    except EOFError:
        return  # The client is gone.
    hello += exactly(connection, 20) if hello == b"WSTN" else bytes(20)
    magic, lowest, highest, client_id = struct.unpack(">4sHH16s", hello)
    version = 1 if magic == b"WSTN" and lowest <= 1 <= highest else 0
    connection.sendall(struct.pack(">4sHH16sIIII", b"WSTN", version, 0, INSTANCE_ID, 524288, 1024, 64, 60000))
    if not version:
        code = UNSUPPORTED_VERSION if magic == b"WSTN" else BAD_MAGIC
        send(connection, ERROR, 0, struct.pack(">H", code))
        connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):  # Your part: read frames, and answer them.
        pass


host, port = sys.argv[1].rsplit(":", 1)
listener = socket.create_server((host, int(port)))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
