# SPDX-License-Identifier: MIT
"""OpenFlow 1.3 switches behind a REST interface with the paths of Ryu's ofctl_rest: an os-ken application.

    FM_OFCTL_LISTEN=127.0.0.1:8080 osken-manager ofctl_rest.py

GET  /stats/switches                       [dpid, …]
GET  /stats/flow/DPID                      {"DPID": [flow, …]}
POST /stats/flow/DPID                      the same, of the flows that the filter in the body selects
POST /stats/flowentry/COMMAND              add, modify, modify_strict, delete, delete_strict
GET  /stats/queueconfig/DPID[/PORT]        {"DPID": [{"port": …, "queues": [{"queue_id": …}, …]}, …]}
GET  /stats/meterconfig/DPID[/METER]       {"DPID": [meter, …]}
POST /stats/meterentry/COMMAND             add, modify, delete
GET  /stats/barrier/DPID                   {"DPID": {"errors": [{"xid", "type", "code", "text"}, …]}}

What differs from Ryu's application: the barrier; a switch that does not answer is an error (504) and not
an empty list; whatever sends a modification answers with its transaction in the header X-OpenFlow-Xid, by
which its sender finds it among the errors that the barrier lists (the last ones, of everybody's messages).
With ?barrier=1 a modification is answered once it is done: with the header X-OpenFlow-Barrier, and a barrier's
answer that lists its own errors only.
"""

import collections
import json
import os
import re

from os_ken.base import app_manager
from os_ken.controller import ofp_event
from os_ken.controller.handler import (CONFIG_DISPATCHER, DEAD_DISPATCHER, HANDSHAKE_DISPATCHER,
                                       MAIN_DISPATCHER, set_ev_cls)
from os_ken.lib import hub, ofctl_v1_3
from os_ken.ofproto import ofproto_v1_3

LISTEN = os.environ.get("FM_OFCTL_LISTEN", "127.0.0.1:8080")
SWITCH_TIMEOUT = float(os.environ.get("FM_OFCTL_SWITCH_TIMEOUT", "1.0"))
BODY_LIMIT = 1 << 20
ERRORS_KEPT = 256

FLOW_COMMANDS = {
    "add": ofproto_v1_3.OFPFC_ADD,
    "modify": ofproto_v1_3.OFPFC_MODIFY,
    "modify_strict": ofproto_v1_3.OFPFC_MODIFY_STRICT,
    "delete": ofproto_v1_3.OFPFC_DELETE,
    "delete_strict": ofproto_v1_3.OFPFC_DELETE_STRICT,
}
METER_COMMANDS = {
    "add": ofproto_v1_3.OFPMC_ADD,
    "modify": ofproto_v1_3.OFPMC_MODIFY,
    "delete": ofproto_v1_3.OFPMC_DELETE,
}
STATUS_TEXT = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
               413: "Content Too Large", 500: "Internal Server Error", 504: "Gateway Timeout"}


class Refusal(Exception):
    """What a request is answered with when it cannot be done."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Outbox:
    """Stands in for a switch while the codec builds a message, and keeps it instead of sending it."""

    def __init__(self, switch):
        self._switch = switch
        self.message = None

    def __getattr__(self, name):
        return getattr(self._switch, name)

    def send_msg(self, message):
        self.message = message


class Switch:
    """A connected switch: requests that wait for their answer, and the errors that it has reported."""

    def __init__(self, datapath):
        self.datapath = datapath
        self.gone = False
        self.waiting = {}
        self.errors = collections.deque(maxlen=ERRORS_KEPT)

    def send(self, message):
        if message.xid is None:
            self.datapath.set_xid(message)
        if self.datapath.send_msg(message) is False:
            raise Refusal(404, f"switch {self.datapath.id} is not connected")
        return message.xid

    def request(self, message):
        """Sends and returns all parts of the answer."""
        self.datapath.set_xid(message)
        done, parts = hub.Event(), []
        self.waiting[message.xid] = (done, parts)
        try:
            self.send(message)
            if not done.wait(timeout=SWITCH_TIMEOUT):
                raise Refusal(504, f"switch {self.datapath.id} does not answer")
        finally:
            self.waiting.pop(message.xid, None)
        if self.gone:
            raise Refusal(404, f"switch {self.datapath.id} has disconnected")
        if parts and parts[-1] is None:
            raise Refusal(400, f"switch {self.datapath.id} refuses the request")
        return parts

    def barrier(self):
        self.request(self.datapath.ofproto_parser.OFPBarrierRequest(self.datapath))
        return list(self.errors)

    def disconnected(self):
        self.gone = True
        for done, _parts in self.waiting.values():
            done.set()

    def answered(self, message, complete):
        done, parts = self.waiting.get(message.xid, (None, None))
        if done:
            parts.append(message)
            if complete:
                done.set()

    def failed(self, message):
        kind, code = message.type, message.code
        ofproto = self.datapath.ofproto
        self.errors.append({"xid": message.xid, "type": kind, "code": code,
                            "text": ofproto.ofp_error_code_to_str(kind, code)})
        done, parts = self.waiting.get(message.xid, (None, None))
        if done:
            parts.append(None)
            done.set()

    def modify(self, build, body, command):
        """Has the codec build a modification from the body, and sends it. Returns its transaction."""
        outbox = Outbox(self.datapath)
        try:
            build(outbox, body, command)
        except Exception as error:  # the codec raises whatever a wrong value makes Python raise
            raise Refusal(400, f"not understood: {error!r}") from error
        return self.send(outbox.message)


def flow_as_json(stats):
    return {
        "table_id": stats.table_id, "priority": stats.priority, "cookie": stats.cookie,
        "idle_timeout": stats.idle_timeout, "hard_timeout": stats.hard_timeout, "flags": stats.flags,
        "packet_count": stats.packet_count, "byte_count": stats.byte_count,
        "duration_sec": stats.duration_sec, "duration_nsec": stats.duration_nsec,
        "length": stats.length, "match": ofctl_v1_3.match_to_str(stats.match),
        "actions": ofctl_v1_3.actions_to_str(stats.instructions),
    }


def as_number(value, default):
    return default if value is None else ofctl_v1_3.str_to_int(value)


class OfctlRest(app_manager.OSKenApp):
    OFP_VERSIONS = [ofproto_v1_3.OFP_VERSION]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.switches = {}
        host, _, port = LISTEN.rpartition(":")
        self.server = hub.WSGIServer((host.strip("[]"), int(port)), self.serve)
        self.routes = [
            ("GET", re.compile(r"/stats/switches"), self.list_switches),
            ("GET", re.compile(r"/stats/flow/(\d+)"), self.list_flows),
            ("POST", re.compile(r"/stats/flow/(\d+)"), self.list_flows),
            ("POST", re.compile(r"/stats/flowentry/(\w+)"), self.modify_flow),
            ("GET", re.compile(r"/stats/queueconfig/(\d+)(?:/(\d+))?"), self.list_queues),
            ("GET", re.compile(r"/stats/meterconfig/(\d+)(?:/(\d+))?"), self.list_meters),
            ("POST", re.compile(r"/stats/meterentry/(\w+)"), self.modify_meter),
            ("GET", re.compile(r"/stats/barrier/(\d+)"), self.barrier),
        ]

    def start(self):
        super().start()
        self.threads.append(hub.spawn(self.server.serve_forever))

    # ---- switches ----

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])
    def state_changed(self, event):
        datapath = event.datapath
        if event.state == MAIN_DISPATCHER:
            self.switches[datapath.id] = Switch(datapath)
        elif datapath.id in self.switches and self.switches[datapath.id].datapath is datapath:
            self.switches.pop(datapath.id).disconnected()

    @set_ev_cls([ofp_event.EventOFPBarrierReply, ofp_event.EventOFPFlowStatsReply,
                 ofp_event.EventOFPMeterConfigStatsReply, ofp_event.EventOFPQueueGetConfigReply],
                MAIN_DISPATCHER)
    def reply_came(self, event):
        message = event.msg
        switch = self.switches.get(message.datapath.id)
        if switch:
            more = getattr(message, "flags", 0) & ofproto_v1_3.OFPMPF_REPLY_MORE
            switch.answered(message, not more)

    @set_ev_cls(ofp_event.EventOFPErrorMsg, [HANDSHAKE_DISPATCHER, CONFIG_DISPATCHER, MAIN_DISPATCHER])
    def error_came(self, event):
        switch = self.switches.get(event.msg.datapath.id)
        if switch:
            switch.failed(event.msg)

    def switch_of(self, dpid):
        try:
            return self.switches[as_number(dpid, 0)]
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal(404, f"switch {dpid} is not connected") from error

    # ---- requests ----

    def list_switches(self, _body):
        return sorted(self.switches), None

    def list_flows(self, body, dpid):
        switch = self.switch_of(dpid)
        wanted = body or {}
        parser, ofproto = switch.datapath.ofproto_parser, switch.datapath.ofproto
        try:
            message = parser.OFPFlowStatsRequest(
                switch.datapath, 0, as_number(wanted.get("table_id"), ofproto.OFPTT_ALL),
                as_number(wanted.get("out_port"), ofproto.OFPP_ANY), ofproto.OFPG_ANY,
                as_number(wanted.get("cookie"), 0), as_number(wanted.get("cookie_mask"), 0),
                ofctl_v1_3.to_match(switch.datapath, wanted.get("match", {})))
        except Exception as error:  # as in Switch.modify
            raise Refusal(400, f"not understood: {error!r}") from error
        parts = switch.request(message)
        return {dpid: [flow_as_json(stats) for part in parts for stats in part.body]}, None

    def modify_flow(self, body, command):
        if command not in FLOW_COMMANDS:
            raise Refusal(404, f"no such command: {command}")
        switch = self.switch_of(body.get("dpid"))
        return None, switch.modify(ofctl_v1_3.mod_flow_entry, body, FLOW_COMMANDS[command])

    def list_queues(self, _body, dpid, port=None):
        switch = self.switch_of(dpid)
        parser, ofproto = switch.datapath.ofproto_parser, switch.datapath.ofproto
        parts = switch.request(parser.OFPQueueGetConfigRequest(
            switch.datapath, as_number(port, ofproto.OFPP_ANY)))
        return {dpid: [{"port": part.port,
                        "queues": [{"queue_id": queue.queue_id} for queue in part.queues]}
                       for part in parts]}, None

    def list_meters(self, _body, dpid, meter=None):
        switch = self.switch_of(dpid)
        parser, ofproto = switch.datapath.ofproto_parser, switch.datapath.ofproto
        parts = switch.request(parser.OFPMeterConfigStatsRequest(
            switch.datapath, 0, as_number(meter, ofproto.OFPM_ALL)))
        return {dpid: [{"meter_id": stats.meter_id, "flags": stats.flags,
                        "bands": [{"type": band.type, "rate": band.rate, "burst_size": band.burst_size}
                                  for band in stats.bands]}
                       for part in parts for stats in part.body]}, None

    def modify_meter(self, body, command):
        if command not in METER_COMMANDS:
            raise Refusal(404, f"no such command: {command}")
        switch = self.switch_of(body.get("dpid"))
        return None, switch.modify(ofctl_v1_3.mod_meter_entry, body, METER_COMMANDS[command])

    def barrier(self, _body, dpid):
        return {dpid: {"errors": self.switch_of(dpid).barrier()}}, None

    # ---- HTTP ----

    def find(self, method, path):
        known = False
        for route_method, pattern, handler in self.routes:
            match = pattern.fullmatch(path)
            if match and route_method == method:
                return handler, [group for group in match.groups() if group is not None]
            known = known or match
        raise Refusal(405 if known else 404, f"no {method} {path}")

    @staticmethod
    def read_body(environ):
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError as error:
            raise Refusal(400, "wrong Content-Length") from error
        if length > BODY_LIMIT:
            raise Refusal(413, f"a body has at most {BODY_LIMIT} bytes")
        try:
            body = json.loads(environ["wsgi.input"].read(length)) if length else {}
        except ValueError as error:
            raise Refusal(400, "the body is not JSON") from error
        if not isinstance(body, dict):
            raise Refusal(400, "the body is not a JSON object")
        return body

    def serve(self, environ, start_response):
        headers = [("Content-Type", "application/json")]
        try:
            handler, arguments = self.find(environ["REQUEST_METHOD"], environ["PATH_INFO"])
            body = self.read_body(environ)
            answer, xid = handler(body, *arguments)
            status = 200
            if xid is not None:
                headers.append(("X-OpenFlow-Xid", str(xid)))
            if xid is not None and "barrier=1" in environ.get("QUERY_STRING", "").split("&"):
                errors = self.switch_of(body["dpid"]).barrier()
                answer = {str(body["dpid"]): {"errors": [e for e in errors if e["xid"] == xid]}}
                headers.append(("X-OpenFlow-Barrier", "done"))
        except Refusal as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        text = b"" if answer is None else json.dumps(answer).encode()
        headers.append(("Content-Length", str(len(text))))
        start_response(f"{status} {STATUS_TEXT[status]}", headers)
        return [text]
