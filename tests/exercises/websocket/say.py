"""Says each line of its input in a chat room, and prints the number that it got.

    websocket/python/.venv/bin/python tests/exercises/websocket/say.py 127.0.0.1:8081 lobby eva
"""
import json
import sys
import uuid

from websockets.sync.client import connect

addr, room, name = sys.argv[1:]
with connect(f"ws://{addr}/chat") as socket:

    def ask(**request):
        socket.send(json.dumps(request))
        return json.loads(socket.recv(timeout=10))

    joined = ask(type="join", id=1, room=room, name=name)
    print("in the room:", *joined["present"], flush=True)
    for number, line in enumerate(sys.stdin, 2):
        said = ask(type="say", id=number, room=room, message_id=str(uuid.uuid4()), text=line.strip())
        print(f"{line.strip()!r} has the number {said['sequence']}", flush=True)
