#!/usr/bin/env python3
"""Asks for a page over and over, each time on a new connection, until SIGTERM; then prints as JSON what became of it:
"answers" (how many of each page), "failed" (why), "longest_ms" (of one request)."""
import argparse
import json
import signal
import socket
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("port", type=int)
parser.add_argument("--clients", type=int, default=4)
parser.add_argument("--ready-file", required=True)
options = parser.parse_args()

lock = threading.Lock()
ended = threading.Event()
answers, failed, longest = {}, [], 0.0


def ask():
    with socket.create_connection((options.address, options.port), timeout=10) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := s.recv(65536):
            answer += data
    head, _, page = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode(errors="replace")
    if " 200 " not in status:
        raise OSError(status or "no answer")
    return page.decode().strip()


def client():
    global longest
    while not ended.is_set():
        began = time.monotonic()
        try:
            page, reason = ask(), None
        except OSError as e:
            page, reason = None, str(e)
        with lock:
            longest = max(longest, (time.monotonic() - began) * 1000)
            if reason is None:
                answers[page] = answers.get(page, 0) + 1
            else:
                failed.append(reason)
        ended.wait(0.005)


signal.signal(signal.SIGTERM, lambda *_: ended.set())
threads = [threading.Thread(target=client) for _ in range(options.clients)]
for thread in threads:
    thread.start()
while not answers and not failed:
    time.sleep(0.005)
open(options.ready_file, "w").close()
ended.wait()
for thread in threads:
    thread.join()
print(json.dumps({"answers": answers, "failed": failed[:10], "failures": len(failed), "longest_ms": round(longest, 1)}))
