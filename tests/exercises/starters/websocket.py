"""The beginning of a server for the WebSocket chapter: it does the handshake and echoes messages.

    cargo run --bin check -- websocket --server 'python3 tests/exercises/starters/websocket.py {addr}'
"""
import base64
import hashlib
import socketserver
import sys

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        try:
            self.serve()
        except (IndexError, ValueError, OSError):
            pass  # The client is gone.

    def serve(self):
        path = self.rfile.readline().decode().split(" ")[1]
        headers = {}
        while (line := self.rfile.readline().decode().strip()):
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        if path not in ("/echo", "/live", "/chat"):
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                          f"sec-websocket-accept: {accept}\r\n\r\n").encode())
        while True:
            opcode, payload = self.receive()
            if opcode == TEXT and path == "/echo":  # Your part: answer the requests at /live and /chat.
                self.send(TEXT, payload)
            elif opcode == PING:
                self.send(PONG, payload)
            elif opcode == CLOSE:
                self.send(CLOSE, payload)
                return

    def receive(self):
        first, second = self.rfile.read(2)
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(self.rfile.read(2 if length == 126 else 8))
        mask = self.rfile.read(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
        return first & 0x0F, payload

    def send(self, opcode, payload):
        length = len(payload)
        size = bytes([length]) if length < 126 else bytes([126]) + length.to_bytes(2)
        self.wfile.write(bytes([0x80 | opcode]) + size + payload)


socketserver.ThreadingTCPServer.daemon_threads = True
host, port = sys.argv[1].rsplit(":", 1)
socketserver.ThreadingTCPServer((host, int(port)), Handler).serve_forever()
