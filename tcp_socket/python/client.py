#!/usr/bin/env python3
"""A client of the Weather Station Protocol, written from PROTOCOL.md alone.

    python3 tcp_socket/python/client.py 127.0.0.1:7878

The address may be a host name or an IP address, such as [::1]:7878. The default port is 7878,
and the address may start with tcp://. The client records a batch twice under one ID, watches a
station, pings the server, and says goodbye.
"""
import ipaddress
import os
import re
import socket
import struct
import sys

RECORD, WATCH, CANCEL, PING, GOODBYE = 1, 2, 3, 4, 5
RECORDED, READING, PONG, ERROR = 0x101, 0x102, 0x104, 0x1FF
END = 0x100
METRICS = {"temperature": 1, "humidity": 2, "pressure": 3, "wind": 4}


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def host_and_port(url):
    """Returns ("::1", 7878) for "tcp://[::1]:7878", "[::1]", or "::1"."""
    address = url.removeprefix("tcp://").removesuffix("/")
    try:
        return str(ipaddress.IPv6Address(address)), 7878
    except ValueError:
        pass
    form = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s/:\[\]@?#]+))(?::([0-9]{1,5}))?", address)
    if not form or int(form[3] or 0) > 65535:
        sys.exit(f"error: {url!r} is not of the form tcp://host:port")
    return form[1] or form[2], int(form[3] or 7878)


def printable(text):
    """Returns text with escapes for the characters that a terminal would obey or hide."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Connection:
    def __init__(self, host, port):
        try:
            self.socket = socket.create_connection((host, port), timeout=10)
        except OSError as error:
            sys.exit(f"error: cannot connect to {host} port {port}: {error}")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"WSTN" + struct.pack(">HH", 1, 1) + os.urandom(16))
        magic, version, _, _, self.largest, _, _, _ = struct.unpack(">4sHH16sIIII", self.exactly(40))
        if magic != b"WSTN":
            sys.exit(f"error: the server at {host} port {port} does not speak this protocol")
        if version != 1:
            payload = self.receive()[3]
            sys.exit(f"error: refused: {int.from_bytes(payload[:2])} {printable(payload[2:].decode(errors='replace'))}")

    def exactly(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                sys.exit("error: the server closed the connection")
            data += piece
        return data

    def send(self, kind, request_id, payload=b""):
        header = struct.pack(">HHII", kind, 0, request_id, len(payload))
        self.socket.sendall(header + struct.pack(">I", crc32c(header + payload)) + payload)

    def receive(self):
        header = self.exactly(12)
        kind, flags, request_id, length = struct.unpack(">HHII", header)
        (checksum,) = struct.unpack(">I", self.exactly(4))
        payload = self.exactly(length)
        assert checksum == crc32c(header + payload), "bad checksum"
        return kind, flags, request_id, payload


def batch(batch_id, station, readings):
    run = struct.pack(">QB", batch_id, len(station)) + station + struct.pack(">H", len(readings))
    return run + b"".join(struct.pack(">BdQ", METRICS[m], v, at) for m, v, at in readings)


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py HOST:PORT")
    connection = Connection(*host_and_port(sys.argv[1]))
    readings = [("temperature", -3.5, 1767225600000), ("wind", 7.25, 1767225601000)]
    for request_id in (1, 2):
        connection.send(RECORD, request_id, batch(1, b"python-1", readings))
        kind, _, response_to, payload = connection.receive()
        assert (kind, response_to) == (RECORDED, request_id), (kind, payload)
        print("accepted", *struct.unpack(">I", payload))
    connection.send(WATCH, 3, b"python-1")
    connection.send(RECORD, 4, batch(2, b"python-1", [("humidity", 81.0, 1767225602000)]))
    connection.send(RECORD, 5, batch(3, b"python-1", [("humidity", 130.0, 1767225603000)]))
    connection.send(PING, 6)
    responses = {}
    while len(responses) < 4:  # in any order; the first READING of a watch is empty
        kind, _, request_id, payload = connection.receive()
        if (kind, len(payload)) != (READING, 8):
            responses[request_id] = kind, payload
    skipped, metric, value, at = struct.unpack(">QBdQ", responses[3][1])
    print("watched", metric, value, at, "skipped", skipped)
    print("accepted", *struct.unpack(">I", responses[4][1]))
    code, text = responses[5][1][:2], responses[5][1][2:].decode(errors="replace")
    print("error", *struct.unpack(">H", code), printable(text))
    assert responses[6] == (PONG, b"")
    connection.send(CANCEL, 3)
    kind, flags, request_id, _ = connection.receive()
    assert (kind, flags, request_id) == (READING, END, 3)
    connection.send(GOODBYE, 0)
    assert connection.receive()[0] == GOODBYE
    print("goodbye")


main()
