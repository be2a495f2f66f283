"""Holds a call with the daemon by aioquic and prints what it saw as one line of JSON.

Usage: aioquic_call.py quic|webtransport HOST:PORT SHA256 AGENT SPEECH SECONDS
       aioquic_call.py refused HOST:PORT SHA256 PATH ORIGIN
"""
import asyncio
import hashlib
import json
import ssl
import struct
import sys
import time
from array import array

import av
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, StopSendingReceived, StreamDataReceived
from cryptography.hazmat.primitives.serialization import Encoding

RATE, FRAME, FLOW, PCM16 = 16000, 320, 77, 96
FIRST_CODE = 0x52E4A40FA8DB


def load(path):
    out, mono = array("h"), av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(path) as file:
        for frame in file.decode(audio=0):
            for piece in mono.resample(frame):
                out.frombytes(bytes(piece.planes[0])[: 2 * piece.samples])
    return out.tobytes()


class Call(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.web, self.session, self.control, self.status = None, None, None, asyncio.Future()
        self.unread, self.messages, self.packets, self.stopped = b"", [], [], None
        self.ended = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, StopSendingReceived) and event.stream_id == self.control:
            code = event.error_code
            self.stopped = code if self.web is None else code - FIRST_CODE - (code - FIRST_CODE) // 0x1F
        # aioquic takes the answer on a stream that the client opened for HTTP/3 frames.
        if isinstance(event, StreamDataReceived) and event.stream_id == self.control:
            return self.on_control(event.data, event.end_stream)
        if self.web is not None:
            for known in self.web.handle_event(event):
                if isinstance(known, HeadersReceived) and known.stream_id == self.session and not self.status.done():
                    self.status.set_result(int(dict(known.headers)[b":status"]))
                if isinstance(known, DatagramReceived):
                    self.on_datagram(known.data)
        elif isinstance(event, DatagramFrameReceived):
            self.on_datagram(event.data)

    def on_control(self, data, end):
        self.unread += data
        while self.unread:
            buffer = Buffer(data=self.unread)
            try:
                length = buffer.pull_uint_var()
                message = buffer.pull_bytes(length)
            except Exception:
                break
            self.unread = self.unread[buffer.tell() :]
            self.messages.append(json.loads(message))
        if end:
            self.ended.set()

    def on_datagram(self, data):
        buffer = Buffer(data=data)
        assert buffer.pull_uint_var() == FLOW
        flags, kind, seq, timestamp, ssrc = struct.unpack("!BBHII", buffer.pull_bytes(12))
        assert flags == 0x80 and kind & 0x7F == PCM16, (flags, kind)
        self.packets.append((seq, timestamp, kind >> 7, buffer.pull_bytes(len(data) - buffer.tell())))

    def say(self, message):
        text = json.dumps(message).encode()
        self._quic.send_stream_data(self.control, encode_uint_var(len(text)) + text)
        self.transmit()

    def speak(self, number, payload):
        packet = struct.pack("!BBHII", 0x80, PCM16 | (0x80 if number == 0 else 0), number & 0xFFFF, number * FRAME, 9)
        data = encode_uint_var(FLOW) + packet + payload
        if self.web is not None:
            self.web.send_datagram(self.session, data)
        else:
            self._quic.send_datagram_frame(data)
        self.transmit()

    async def request(self, authority, path, origin):
        self.web = H3Connection(self._quic, enable_webtransport=True)
        self.session = self._quic.get_next_available_stream_id()
        headers = [(":method", "CONNECT"), (":scheme", "https"), (":authority", authority), (":path", path)]
        headers += [(":protocol", "webtransport"), ("origin", origin)]
        self.web.send_headers(self.session, [(name.encode(), value.encode()) for name, value in headers])
        self.transmit()
        return await asyncio.wait_for(self.status, 10)

    def open(self, start):
        if self.web is not None:
            self.control = self.web.create_webtransport_stream(self.session)
        else:
            self.control = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(self.control, encode_uint_var(0) + encode_uint_var(FLOW))
        self.say(start)


def connecting(address, pin, web):
    host, port = address.rsplit(":", 1)
    alpn = H3_ALPN if web else ["antiphon/1"]
    settings = QuicConfiguration(is_client=True, alpn_protocols=alpn, max_datagram_frame_size=65536)
    settings.verify_mode = ssl.CERT_NONE
    return connect(host, int(port), configuration=settings, create_protocol=Call)


def check(call, pin):
    shown = call._quic.tls._peer_certificate.public_bytes(Encoding.DER)
    assert hashlib.sha256(shown).hexdigest() == pin, "another certificate than told"


async def hold(mode, address, pin, agent, speech, seconds):
    spoken, began = load(speech), time.time()
    async with connecting(address, pin, mode == "webtransport") as call:
        check(call, pin)
        if mode == "webtransport":
            assert await call.request(address, "/v1/session", "http://localhost:1234") == 200
        pcm = {"codec": "pcm16", "rate": RATE}
        call.open({"type": "start", "agent": agent, "audio": {"in": pcm, "out": pcm, "flow": FLOW}})
        said, first = b"", time.time()
        for number in range(int(seconds * 50)):
            await asyncio.sleep(max(0, first + number * 0.02 - time.time()))
            payload = spoken[number * 2 * FRAME :][: 2 * FRAME].ljust(2 * FRAME, b"\0")
            said += payload
            call.speak(number, payload)
        call.say({"type": "stats"})
        await asyncio.sleep(0.2)
        call.say({"type": "end"})
        await asyncio.wait_for(call.ended.wait(), 10)
        await asyncio.sleep(0.1)
        packets = sorted(call.packets)
        heard = b"".join(payload for *_, payload in packets)
        probe = heard[: 4 * FRAME]
        at = said.find(probe) if probe.strip(b"\0") else -1
        if at < 0:
            # What is heard begins in silence: look for the first loud frames.
            loud = next((i for i in range(0, len(heard), 2 * FRAME) if max(heard[i : i + 2 * FRAME], default=0)), 0)
            at = said.find(heard[loud : loud + 8 * FRAME]) - loud
        same = min(len(heard), len(said) - at)
        seqs = [seq for seq, *_ in packets]
        print(json.dumps({
            "setup_ms": round((first - began) * 1000), "kinds": [m["type"] for m in call.messages],
            "ended": call.messages[-1], "stopped": call.stopped, "packets": len(packets),
            "missing": seqs[-1] - seqs[0] + 1 - len(seqs), "at": at,
            "wrong": sum(x != y for x, y in zip(heard[:same], said[at : at + same])), "compared": same,
            "loud": sum(1 for b in heard if b) / max(1, len(heard)),
        }))


async def refused(address, pin, path, origin):
    async with connecting(address, pin, True) as call:
        print(json.dumps({"status": await call.request(address, path, origin)}))


if sys.argv[1] == "refused":
    asyncio.run(refused(*sys.argv[2:]))
else:
    asyncio.run(hold(*sys.argv[1:6], float(sys.argv[6])))
