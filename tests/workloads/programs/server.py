"""See README.md. A thread for each connection, and two that replace what is on the heap."""
import hashlib
import socketserver
import threading
import time

COUNT = 128
BYTES = 64 * 1024


def fresh(number):
    data = bytearray(hashlib.sha1(str(number).encode()).digest() * (BYTES // 20))
    return {"number": number, "data": data, "digest": hashlib.sha1(data).hexdigest()}


class Heap:
    def __init__(self):
        self.lock = threading.Lock()
        self.entries = [fresh(i) for i in range(COUNT)]
        self.replaced = 0
        self.failure = None

    def verify(self, entry):
        if hashlib.sha1(entry["data"]).hexdigest() != entry["digest"]:
            self.failure = self.failure or f"buffer {entry['number']} differs"

    def replace_one(self):
        with self.lock:
            index = self.replaced % COUNT
            self.verify(self.entries[index])
            self.entries[index] = fresh(COUNT + self.replaced)
            self.replaced += 1

    def check(self):
        with self.lock:
            for entry in self.entries:
                self.verify(entry)
            return f"FAIL {self.failure}" if self.failure else f"ok {self.replaced} replaced"


def replace_for_ever(heap):
    while True:
        heap.replace_one()
        time.sleep(0.01)


class Connection(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        state = 0
        for line in self.rfile:
            word = line.strip().decode()
            if word == "check":
                answer = self.server.heap.check()
            else:
                state = (state * 69069 + int(word)) % 2**31
                answer = str(state)
            self.wfile.write(answer.encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    with Server(("0.0.0.0", 7000), Connection) as server:
        server.heap = Heap()
        for _ in range(2):
            threading.Thread(target=replace_for_ever, args=(server.heap,), daemon=True).start()
        print("ready", flush=True)
        server.serve_forever()
