#!/usr/bin/python3
"""Judges a server of this folder, or memcached, over connections that it keeps to its end.

usage: client.py numbers|memcached ADDRESS PORT --connections N --ready-file PATH

Asks on each connection, one request after the other, and knows what every answer must be. SIGTERM ends it: it then
prints one JSON object, and exits with 1 when anything was wrong. SIGUSR1 prints the number of answers so far.
"""
import argparse
import json
import random
import selectors
import signal
import socket
import sys
import time


class Numbers:
    """A state for each connection, that the server computes as well."""

    def __init__(self):
        self.state = 0
        self.expected = b""

    def question(self):
        number = random.randrange(65536)
        self.state = (self.state * 69069 + number) % 2**31
        self.expected = b"%d\n" % self.state
        return b"%d\n" % number

    def verdict(self, answer):
        """None while incomplete; then whether it was right."""
        if not answer.endswith(b"\n"):
            return None
        return answer == self.expected


class Memcached:
    """Values that this connection has set, and reads back at random: few enough that none has to go."""

    names = iter(range(1 << 30))

    def __init__(self):
        self.prefix = next(Memcached.names)
        self.values = {}
        self.expected = b""

    def question(self):
        key = b"key-%d-%d" % (self.prefix, random.randrange(100))
        if key not in self.values or random.random() < 0.5:
            value = random.randbytes(random.randrange(1, 4000)).hex().encode()
            self.values[key] = value
            self.expected = b"STORED\r\n"
            return b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value)
        value = self.values[key]
        self.expected = b"VALUE %s 0 %d\r\n%s\r\nEND\r\n" % (key, len(value), value)
        return b"get %s\r\n" % key

    def verdict(self, answer):
        if len(answer) < len(self.expected) and self.expected.startswith(answer):
            return None
        return answer == self.expected


class Connection:
    def __init__(self, address, asker):
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asker = asker
        self.answer = b""
        self.waits = False
        self.due = time.monotonic() + random.random() / 20

    def ask(self):
        self.socket.sendall(self.asker.question())
        self.answer = b""
        self.waits = True

    def read(self):
        """None, or whether a whole answer was right."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the server")
        self.answer += data
        verdict = self.asker.verdict(self.answer)
        if verdict is not None:
            self.waits = False
            self.due = time.monotonic() + 0.01 + random.random() / 50
        return verdict


class Judge:
    def __init__(self, arguments):
        kind = {"numbers": Numbers, "memcached": Memcached}[arguments.kind]
        self.result = {"connections": arguments.connections, "answers": 0, "wrong": 0, "connection_resets": 0,
                       "max_gap_ms": 0.0}
        self.connections = [Connection((arguments.address, arguments.port), kind())
                            for _ in range(arguments.connections)]
        self.stop = False
        self.last = time.monotonic()
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGUSR1, lambda *_: print(self.result["answers"], flush=True))

    def end(self, *_):
        self.stop = True

    def note(self, connection):
        verdict = connection.read()
        if verdict is None:
            return
        if not verdict and not self.result["wrong"]:
            print(f"wrong: {connection.answer[:80]!r} instead of {connection.asker.expected[:80]!r}", file=sys.stderr)
        now = time.monotonic()
        self.result["max_gap_ms"] = max(self.result["max_gap_ms"], round((now - self.last) * 1000, 1))
        self.last = now
        self.result["answers"] += 1
        self.result["wrong"] += not verdict

    def run(self, ready_file):
        selector = selectors.DefaultSelector()
        for connection in self.connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        while not self.stop or any(c.waits for c in self.connections):
            for key, _ in selector.select(0.005):
                try:
                    self.note(key.data)
                except OSError as error:
                    print(error, file=sys.stderr)
                    self.result["connection_resets"] += 1
                    self.stop = True
                    selector.unregister(key.data.socket)
                    key.data.waits = False
            for connection in self.connections:
                if not self.stop and not connection.waits and time.monotonic() >= connection.due:
                    connection.ask()
            if ready_file and self.result["answers"] >= len(self.connections):
                open(ready_file, "w").close()
                ready_file = None
        self.result["ok"] = not (self.result["wrong"] or self.result["connection_resets"])
        print(json.dumps(self.result), flush=True)
        return 0 if self.result["ok"] else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["numbers", "memcached"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--ready-file")
    arguments = parser.parse_args()
    sys.exit(Judge(arguments).run(arguments.ready_file))


if __name__ == "__main__":
    main()
