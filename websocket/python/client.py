"""A client of the WebSocket chapter.

    websocket/python/setup
    websocket/python/.venv/bin/python websocket/python/client.py 127.0.0.1:8081

It subscribes to a station, records a reading, and has a conversation with itself in the chat.
"""
import json
import sys

from websockets.sync.client import connect


class Requests:
    """Requests and responses on one connection."""

    def __init__(self, socket):
        self.socket = socket
        self.id = 0

    def receive(self):
        """Returns the next message that is not a heartbeat."""
        while True:
            message = json.loads(self.socket.recv(timeout=10))
            if message["type"] != "heartbeat":
                return message

    def ask(self, type, **fields):
        """Sends a request, and returns its response and what arrived before it."""
        self.id += 1
        self.socket.send(json.dumps({"type": type, "id": self.id, **fields}))
        before = []
        while (message := self.receive()).get("id") != self.id:
            before.append(message)
        return message, before


def follow_a_station(live):
    subscribed, _ = live.ask("subscribe", stations=["python-1"])
    print(subscribed["type"], "to python-1")
    reading = {"station": "python-1", "metric": "wind", "value": 7.25, "recorded_at": 1767225601000}
    recorded, before = live.ask("record", readings=[reading])
    event = before[0] if before else live.receive()  # Either may come first.
    print("accepted", recorded["accepted"])
    print("reading", event["sequence"], event["metric"], event["value"])
    refused, _ = live.ask("record", readings=[{**reading, "value": 130}])
    print("refused:", refused["code"], refused["reason"])


def talk(ana, ben):
    ana.ask("join", room="python", name="ana")
    joined, _ = ben.ask("join", room="python", name="ben")
    print("in the room:", *joined["present"])
    print("ana sees:", ana.receive()["name"], "joined")
    for _ in range(2):  # A message that is sent twice under one ID is said once.
        said, _ = ben.ask("say", room="python", message_id="m1", text="hello")
        print("said", "again" if said["duplicate"] else "once")
    message = ana.receive()
    print("ana sees:", message["name"], "says", message["text"])


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: client.py HOST:PORT")
    url = f"ws://{sys.argv[1]}"
    try:
        with connect(f"{url}/live") as live:
            follow_a_station(Requests(live))
        with connect(f"{url}/chat") as ana, connect(f"{url}/chat") as ben:
            talk(Requests(ana), Requests(ben))
    except OSError as error:
        sys.exit(f"error: no server at {sys.argv[1]}: {error}")


main()
