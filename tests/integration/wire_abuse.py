#!/usr/bin/python3
"""Speaks the wire protocol between daemons, badly on purpose.

usage: wire_abuse.py ADDRESS PORT PKI NAME CASE…
PKI is a directory with ca.pem, NAME.pem and NAME.key. Prints a line for each case, `CASE: how the daemon took it`:
`refused` (no greeting), the error that it answered with, `closed`, or `left` when it was us who went.
"""

import ctypes
import json
import os
import socket
import ssl
import struct
import sys

TYPES = {
    1: "HELLO",
    2: "ERROR",
    11: "PREPARED",
    12: "REFUSED",
    14: "TREE_DONE",
    20: "FAILED",
    23: "ABORTED",
    38: "PONG",
}
HELLO, DATA, DATA_END, PREPARE, PREPARED, TREE, ARM, IMAGE, COMMIT, VERIFY, PING = 1, 3, 4, 10, 11, 13, 15, 17, 21, 25, 37


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


xxhash = ctypes.CDLL("libxxhash.so.0")
xxhash.XXH3_128bits.restype = Hash128
xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def checksum(payload):
    value = xxhash.XXH3_128bits(payload, len(payload))
    return struct.pack(">QQ", value.high, value.low)


def header(kind, payload, sequence, length=None, digest=None, magic=b"FMW1"):
    length = len(payload) if length is None else length
    digest = checksum(payload) if digest is None else digest
    return magic + struct.pack(">HHII", kind, 0, length, 0) + digest + struct.pack(">Q", sequence)


class Peer:
    def __init__(self, address, port, pki, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(f"{pki}/{name}.pem", f"{pki}/{name}.key")
        self.socket = context.wrap_socket(connect(address, port))
        self.name = name
        self.sequence = 0
        self.id = os.urandom(6).hex()
        if self.read(4) != b"FMOK":
            raise OSError("no greeting")

    def send(self, kind, body, **wrong):
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.socket.sendall(header(kind, payload, wrong.pop("sequence", self.sequence), **wrong) + payload)
        self.sequence += 1

    def expect(self, wanted):
        kind, _ = self.answer()
        if kind != wanted:
            raise ValueError(f"{TYPES.get(kind, kind)} where {wanted} was expected")

    def hello(self):
        self.send(HELLO, {"version": 1, "host": self.name})
        self.expect(HELLO)

    def read(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def answer(self):
        kind, _, length, _ = struct.unpack(">HHII", self.read(40)[4:16])
        return kind, json.loads(self.read(length) or b"{}")

    def verdict(self):
        try:
            kind, body = self.answer()
            return f"{TYPES.get(kind, kind)} {body.get('code', '')} {body.get('message', '')}".strip()
        except (EOFError, ConnectionError, ssl.SSLError):
            return "closed"


def connect(address, port):
    raw = socket.create_connection((address, int(port)), 5)
    raw.settimeout(10)
    return raw


def container(**changes):
    return dict({"name": "evil", "runtime": "runc", "command": ["true"], "layers": [], "config": {}}, **changes)


def host(name):
    return {"name": name, "address": os.environ["FM_HOST_ADDRESS"], "wire_port": 7441, "api_port": 7440, "cordoned": False}


def prepare(peer, **changes):
    body = {
        "migration": peer.id,
        "container": container(),
        "source": host(peer.name),
        "return_of": "",
        "needs": {},
    }
    body.update(changes)
    peer.hello()
    peer.send(PREPARE, body)


def prepared(peer):
    prepare(peer)
    peer.expect(PREPARED)


CASES = {
    "nothing": lambda p: None,
    "garbage": lambda p: p.socket.sendall(os.urandom(4096)),
    "cut-header": lambda p: p.socket.sendall(header(HELLO, b"{}", 0)[:20]),
    "cut-payload": lambda p: p.socket.sendall(header(HELLO, b"", 0, length=100) + b"{"),
    "oversized": lambda p: p.send(HELLO, b"{}", length=0xFFFFFFFF),
    "checksum": lambda p: p.send(HELLO, {"version": 1}, digest=b"x" * 16),
    "sequence": lambda p: p.send(HELLO, {"version": 1}, sequence=7),
    "type": lambda p: p.send(999, {}),
    "not-json": lambda p: p.send(HELLO, b"\xff\x00{{{"),
    "version": lambda p: p.send(HELLO, {"version": 99}),
    "no-hello": lambda p: p.send(PING, {}),
    "later-garbage": lambda p: (p.hello(), p.socket.sendall(os.urandom(4096))),
    "later-not-json": lambda p: (p.hello(), p.send(PING, b"[1,")),
    "answer": lambda p: (p.hello(), p.send(23, {})),
    "unknown-migration": lambda p: (p.hello(), p.send(COMMIT, {"migration": p.id})),
    "no-migration": lambda p: (p.hello(), p.send(VERIFY, {"migration": 5})),
    "image-alone": lambda p: (p.hello(), p.send(IMAGE, {"name": "x", "offset": 0})),
    "data-alone": lambda p: (p.hello(), p.send(DATA, b"x" * 100)),
    "prepare-empty": lambda p: (p.hello(), p.send(PREPARE, {})),
    "prepare-id": lambda p: prepare(p, migration="../../../etc"),
    "prepare-name": lambda p: prepare(p, container=container(name="../../etc")),
    "prepare-volume": lambda p: prepare(p, container=container(volumes=[{"source": "/a/../etc", "target": "/x"}])),
    "prepare-ip": lambda p: prepare(p, container=container(ip="not an address")),
    "prepare-liar": lambda p: prepare(p, source=host("host-x")),
    "prepare-taken": lambda p: prepare(p, container=container(name="web")),
    "prepare-leave": prepared,
    "commit-early": lambda p: (prepared(p), p.send(COMMIT, {"migration": p.id})),
    "tree-unknown": lambda p: (prepared(p), p.send(TREE, {"migration": p.id, "name": "../../etc"})),
    "tree-layer": lambda p: (prepared(p), p.send(TREE, {"migration": p.id, "name": "layer:../../etc"})),
    "tree-volume": lambda p: (prepared(p), p.send(TREE, {"migration": p.id, "name": "volume:99"})),
    "tree-garbage": lambda p: (
        prepared(p),
        p.send(TREE, {"migration": p.id, "name": "upper"}),
        p.send(DATA, os.urandom(65536)),
        p.send(DATA_END, {"bytes": 65536, "digest": "00"}),
    ),
    "image-early": lambda p: (prepared(p), p.send(IMAGE, {"migration": p.id, "name": "../x", "offset": 0})),
    "log-offset": lambda p: (prepared(p), p.send(IMAGE, {"migration": p.id, "name": "log", "offset": 1 << 40})),
}
# Here we go away in the middle: what matters is what the daemon makes of that.
HALF = {"nothing", "cut-header", "cut-payload", "prepare-leave"}


def attempt(address, port, pki, name, case):
    if case == "plain":
        raw = connect(address, port)
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(1000))
        while raw.recv(4096):
            pass
        return "closed"
    try:
        peer = Peer(address, port, pki, name)
    except (EOFError, OSError):
        return "refused"
    CASES[case](peer)
    if case not in HALF:
        return peer.verdict()
    peer.socket.close()
    return "left"


for case in sys.argv[5:]:
    print(f"{case}: {attempt(*sys.argv[1:5], case)}", flush=True)
