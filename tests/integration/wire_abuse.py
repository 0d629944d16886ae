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
    42: "PAGES_SYNCED",
    45: "PAGES_OPENED",
}
HELLO, DATA, DATA_END, PREPARE, PREPARED, TREE, ARM, IMAGE, COMMIT, VERIFY, PING = 1, 3, 4, 10, 11, 13, 15, 17, 21, 25, 37
PAGES, PAGES_SYNC, PAGES_SYNCED, PAGES_OPEN, PAGES_OPENED = 40, 41, 42, 44, 45
PAGE = os.sysconf("SC_PAGE_SIZE")


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
        self.arguments = address, port, pki, name
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


def page_stream(peer):
    """From here on `peer` is a page stream of its own migration, which says that it needs 1 MiB."""
    prepare(peer, strategy="pre-copy", needs={"memory_bytes": 1 << 20})
    peer.expect(PREPARED)
    stream = Peer(*peer.arguments)
    stream.hello()
    stream.send(PAGES_OPEN, {"migration": peer.id, "stream": 0})
    stream.expect(PAGES_OPENED)
    peer.control, peer.socket, peer.sequence = peer.socket, stream.socket, stream.sequence
    peer.send(PAGES, batch())
    peer.send(PAGES_SYNC, {"sequence": 1})
    peer.expect(PAGES_SYNCED)


def batch(pid=1, address=0x7F0000000000, pages=1):
    body = b"x" * (pages * PAGE)
    head = b"FMPG" + struct.pack("<BBBBiIII", 1, 0, PAGE.bit_length() - 1, 0, pid, 1, len(body), len(body))
    return head + body + struct.pack("<QII", address | 1, pages, len(body))


def flipped(peer):
    payload = batch()
    damaged = payload[:1000] + bytes([payload[1000] ^ 1]) + payload[1001:]
    peer.socket.sendall(header(PAGES, payload, peer.sequence) + damaged)


def swapped(peer):
    first, second = batch(address=0x10000), batch(address=0x20000)
    peer.send(PAGES, second, sequence=peer.sequence + 1)
    peer.send(PAGES, first, sequence=peer.sequence - 1)


def too_many(peer):
    pages = (3 << 20) // PAGE
    for i in range(100):
        try:
            peer.send(PAGES, batch(address=0x10000000 + i * pages * PAGE, pages=pages))
        except (ConnectionError, ssl.SSLError):
            return


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
    "pages-alone": lambda p: (p.hello(), p.send(PAGES, batch())),
    "pages-unknown-migration": lambda p: (p.hello(), p.send(PAGES_OPEN, {"migration": p.id, "stream": 0})),
    "pages-of-cold": lambda p: (prepared(p), p.send(PAGES_OPEN, {"migration": p.id, "stream": 0})),
    "pages-flipped": lambda p: (page_stream(p), flipped(p)),
    "pages-swapped": lambda p: (page_stream(p), swapped(p)),
    "pages-repeated": lambda p: (page_stream(p), p.send(PAGES, batch(), sequence=p.sequence - 1)),
    "pages-garbage": lambda p: (page_stream(p), p.send(PAGES, os.urandom(5000))),
    "pages-process": lambda p: (page_stream(p), p.send(PAGES, batch(pid=(1 << 22) + 1))),
    "pages-no-process": lambda p: (page_stream(p), p.send(PAGES, batch(pid=0))),
    "pages-address": lambda p: (page_stream(p), p.send(PAGES, batch(address=1 << 56))),
    "pages-last-address": lambda p: (page_stream(p), p.send(PAGES, batch(address=(1 << 64) - PAGE))),
    "pages-unaligned": lambda p: (page_stream(p), p.send(PAGES, batch(address=0x1000 + 512))),
    "pages-too-many": lambda p: (page_stream(p), too_many(p)),
    "pages-sync": lambda p: (page_stream(p), p.send(PAGES_SYNC, {})),
    "pages-other": lambda p: (page_stream(p), p.send(COMMIT, {"migration": p.id})),
    "pages-cut": lambda p: (page_stream(p), p.socket.sendall(header(PAGES, batch(), p.sequence) + b"FMPG")),
    "log-offset": lambda p: (prepared(p), p.send(IMAGE, {"migration": p.id, "name": "log", "offset": 1 << 40})),
}
# Here we go away in the middle: what matters is what the daemon makes of that.
HALF = {"nothing", "cut-header", "cut-payload", "prepare-leave", "pages-cut"}


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
