"""A server for the Weather Station Protocol, version 1. Each patch in this folder plants one fault in it.

    cargo run --bin check -- tcp_socket --server 'python3 tests/exercises/planted/server.py {addr}'

One thread serves all connections. Between two `await`s, nothing else runs, so the store needs no lock.
Section numbers are those of tcp_socket/PROTOCOL.md. To stay short, the server has no time limit except
that for HELLO, counts neither connections nor clients, and sends no GOODBYE when it is stopped.
"""
import asyncio, os, re, struct, sys

RECORD, WATCH, CANCEL, PING, GOODBYE = 0x001, 0x002, 0x003, 0x004, 0x005  # kinds (section 5)
RECORDED, READING, PONG, ERROR = 0x101, 0x102, 0x104, 0x1FF
END, CRITICAL = 0x0100, 0xFF00  # flags
BAD_MAGIC, UNSUPPORTED_VERSION, HANDSHAKE_TIMEOUT = 1, 2, 4  # error codes (section 8)
BAD_CHECKSUM, FRAME_TOO_LARGE, BAD_REQUEST_ID, BAD_GOODBYE = 6, 7, 8, 10
UNKNOWN_KIND, UNKNOWN_FLAG, BAD_PAYLOAD, INVALID_READING, STORE_FULL = 16, 17, 18, 19, 20
UNKNOWN_STATION, UNKNOWN_OUTCOME, TOO_MANY_WATCHES, BAD_BATCH_ID = 21, 22, 23, 24
LARGEST_PAYLOAD, REPLIES_KEPT, MOST_WATCHES, IDLE_TIMEOUT = 524_288, 1024, 64, 60_000  # section 9
MOST_READINGS, MOST_STATIONS, MOST_LAG, READING_SIZE, LATEST_TIME = 10_000, 1_000, 10_000, 17, 253_402_300_799_999
RANGES = {1: (-100, 70), 2: (0, 100), 3: (800, 1100), 4: (0, 120)}  # metric: lowest and highest value
INSTANCE_ID = os.urandom(16)
stations = {}  # station ID: the watches that follow it
clients = {}  # client ID: {batch ID: readings accepted}

class Fault(Exception):
    """Becomes an ERROR. A code below 16 ends the connection, any other only the request."""

def require(condition, code, text):
    if not condition:
        raise Fault(code, struct.pack(">H", code) + text.encode())

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF

def check_station(station):
    require(re.fullmatch(rb"[a-z0-9-]{1,32}", station), BAD_PAYLOAD, "a station ID has 1 to 32 of a-z, 0-9, and -")

def parse_batch(payload):
    """Returns the batch ID and the readings of each station, checked in the order of section 6.1."""
    require(len(payload) >= 8, BAD_PAYLOAD, "the payload is shorter than a batch ID")
    batch_id, at, total, readings = struct.unpack_from(">Q", payload)[0], 8, 0, {}
    while at < len(payload):
        station, at = payload[at + 1:at + 1 + payload[at]], at + 1 + payload[at]
        require(at + 2 <= len(payload), BAD_PAYLOAD, "the payload ends within a run")
        check_station(station)
        count, at = struct.unpack_from(">H", payload, at)[0], at + 2
        require(0 < count * READING_SIZE <= len(payload) - at, BAD_PAYLOAD, "a run is empty or incomplete")
        for _ in range(count):
            metric, value, time = struct.unpack_from(">BdQ", payload, at)
            lowest, highest = RANGES.get(metric, (1, 0))  # Nothing is in the range of an unknown metric.
            in_range = lowest <= value <= highest and time <= LATEST_TIME
            require(in_range, INVALID_READING, f"reading {total} is out of range")
            readings.setdefault(station, []).append(payload[at:at + READING_SIZE])
            at, total = at + READING_SIZE, total + 1
    require(1 <= total <= MOST_READINGS, INVALID_READING, f"a batch has 1 to {MOST_READINGS} readings")
    return batch_id, readings

def record(replies, payload):
    """Records a batch once, all of it or nothing, and returns its number of readings (section 7)."""
    batch_id, readings = parse_batch(payload)
    if batch_id in replies:
        return replies[batch_id]
    highest = max(replies, default=0)
    farthest = highest + 2**32 if replies else 2**63
    require(1 <= batch_id <= farthest, BAD_BATCH_ID, "the batch ID is 0 or too far ahead")
    require(batch_id > highest - REPLIES_KEPT, UNKNOWN_OUTCOME, "the batch ID is below the kept range")
    require(len(stations.keys() | readings.keys()) <= MOST_STATIONS, STORE_FULL, "no room for another station")
    for station, new in readings.items():
        for watch in stations.setdefault(station, set()):
            watch.publish(new)
    replies[batch_id] = sum(map(len, readings.values()))
    for below in [kept for kept in replies if kept <= max(replies) - REPLIES_KEPT]:
        del replies[below]
    return replies[batch_id]

class Watch:
    def __init__(self, connection, request_id, station):
        self.connection, self.request_id, self.station, self.skipped = connection, request_id, station, 0
        connection.watches[request_id] = self
        stations[station].add(self)

    def publish(self, readings, most=3_000):
        """Sends readings, or skips and counts them if the client reads too slowly (section 6.4)."""
        for some in [readings[at:at + most] for at in range(0, len(readings), most)]:
            if self.connection.writer.transport.get_write_buffer_size() > MOST_LAG * READING_SIZE:
                self.skipped += len(some)
            else:
                self.send(some)

    def send(self, readings=(), flags=0):
        payload = struct.pack(">Q", self.skipped) + b"".join(readings)
        self.connection.send(READING, self.request_id, payload, flags)
        self.skipped = 0

    def end(self):
        del self.connection.watches[self.request_id]
        stations[self.station].discard(self)

class Connection:
    def __init__(self, reader, writer):
        self.reader, self.writer, self.replies = reader, writer, None
        self.watches = {}  # request ID: Watch

    def send(self, kind, request_id, payload=b"", flags=0):
        header = struct.pack(">HHII", kind, flags, request_id, len(payload))
        self.writer.write(header + struct.pack(">I", crc32c(header + payload)) + payload)

    def send_welcome(self, version, remembered):
        start = struct.pack(">4sHH16s", b"WSTN", version, remembered, INSTANCE_ID)
        self.writer.write(start + struct.pack(">IIII", LARGEST_PAYLOAD, REPLIES_KEPT, MOST_WATCHES, IDLE_TIMEOUT))

    async def handshake(self):
        magic = await self.reader.readexactly(4)
        require(magic == b"WSTN", BAD_MAGIC, "the connection did not begin with HELLO")
        lowest, highest, client_id = struct.unpack(">HH16s", await self.reader.readexactly(20))
        require(lowest <= 1 <= highest, UNSUPPORTED_VERSION, "this server speaks version 1")
        self.send_welcome(1, client_id in clients)
        self.replies = clients.setdefault(client_id, {})

    async def handle_frames(self):
        """Handles frames up to a GOODBYE or the end of the stream, with the checks in the order of section 5."""
        while header := await self.reader.read(1):
            header += await self.reader.readexactly(15)
            kind, flags, request_id, length, checksum = struct.unpack(">HHIII", header)
            require(length <= LARGEST_PAYLOAD, FRAME_TOO_LARGE, f"a payload has at most {LARGEST_PAYLOAD} bytes")
            payload = await self.reader.readexactly(length)
            require(crc32c(header[:12] + payload) == checksum, BAD_CHECKSUM, "the checksum does not match")
            if kind == GOODBYE:
                valid = not (request_id or flags & CRITICAL or payload)
                return require(valid, BAD_GOODBYE, "a GOODBYE has no request ID, critical flag, or payload")
            valid = request_id != 0 and (request_id not in self.watches or kind == CANCEL)
            require(valid, BAD_REQUEST_ID, "the request ID is 0 or that of an open watch")
            try:
                self.handle_request(kind, flags & CRITICAL, request_id, payload)
            except Fault as fault:
                self.send(ERROR, request_id, fault.args[1])
            await self.writer.drain()  # Stops reading while the client doesn't read.

    def handle_request(self, kind, critical, request_id, payload):
        if kind == CANCEL:
            if request_id not in self.watches:
                return  # The watch may just have ended (section 6.5).
            watch = self.watches[request_id]
            watch.end()
        require(not critical, UNKNOWN_FLAG, "unknown critical flag")
        require(kind in (RECORD, WATCH, CANCEL, PING), UNKNOWN_KIND, f"unknown kind {kind:04x}")
        require(kind in (RECORD, WATCH) or not payload, BAD_PAYLOAD, "this kind has no payload")
        if kind == CANCEL:
            watch.send(flags=END)
        elif kind == PING:
            self.send(PONG, request_id)
        elif kind == RECORD:
            self.send(RECORDED, request_id, struct.pack(">I", record(self.replies, payload)))
        else:
            check_station(payload)
            require(len(self.watches) < MOST_WATCHES, TOO_MANY_WATCHES, f"at most {MOST_WATCHES} watches")
            require(payload in stations, UNKNOWN_STATION, "nothing was ever recorded for this station")
            Watch(self, request_id, payload).send()  # Says that the watch has begun.

    async def serve(self):
        last = GOODBYE, 0
        try:
            await asyncio.wait_for(self.handshake(), 5)
            await self.handle_frames()
            for watch in self.watches.values():
                watch.send(flags=END)
        except Fault as fault:
            last = ERROR, 0, fault.args[1]
        except asyncio.TimeoutError:
            last = ERROR, 0, struct.pack(">H", HANDSHAKE_TIMEOUT)
        finally:
            for watch in list(self.watches.values()):
                watch.end()
        if self.replies is None:  # There was no WELCOME yet.
            self.send_welcome(0, 0)
        self.send(*last)
        self.writer.write_eof()
        await asyncio.wait_for(self.linger(), 5)

    async def linger(self):
        while await self.reader.read(65_536):
            pass  # Closing with unread input could destroy the last frame on its way (section 4).

async def accept(reader, writer):
    try:
        await Connection(reader, writer).serve()
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        pass  # The client is gone.
    writer.transport.abort()

async def main():
    host, port = sys.argv[1].rsplit(":", 1)
    await (await asyncio.start_server(accept, host, int(port))).serve_forever()

asyncio.run(main())
