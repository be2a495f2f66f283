"""Holds a call with the daemon by aiortc, and sends beneath it what no client should; prints what it saw as JSON.

Usage: aiortc_misbehaves.py BASE
"""
import asyncio
import json
import random
import sys
import urllib.request

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtp import RtpPacket

WEBRTC_DCEP, WEBRTC_STRING, WEBRTC_BINARY = 50, 51, 53


async def main(base):
    chance, told, packets = random.Random(7), [], 0
    pc = RTCPeerConnection()
    channel = pc.createDataChannel("antiphon.v1")
    channel.on("message", lambda text: told.append(json.loads(text)))
    pc.addTrack(AudioStreamTrack())

    @pc.on("track")
    def on_track(track):
        async def listen():
            nonlocal packets
            while True:
                await track.recv()
                packets += 1
        asyncio.ensure_future(listen())

    await pc.setLocalDescription(await pc.createOffer())
    body = json.dumps({"sdp": pc.localDescription.sdp, "start": {"agent": "echo"}}).encode()

    def post():
        request = urllib.request.Request(base + "/v1/session/webrtc", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    answer = await asyncio.to_thread(post)
    await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
    while channel.readyState != "open":
        await asyncio.sleep(0.01)
    sctp = pc.sctp
    dtls = sctp.transport

    async def misbehave(round):
        # SCTP: rubbish, a header without chunks, a chunk that is longer than its packet, a wrong checksum.
        header = sctp._local_port.to_bytes(2, "big") + sctp._remote_port.to_bytes(2, "big")
        for packet in (
            bytes(chance.randbytes(chance.randrange(1, 200))),
            header + bytes(8),
            header + bytes(8) + b"\x00\x03\xff\xff" + bytes(12),
            header + chance.randbytes(40),
        ):
            await dtls._send_data(packet)
        # DCEP and data on streams that nobody opened. (On our own it would end the channel, as it should.)
        stream = 100 + 2 * round
        bad_label = b"\x03\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00a"
        for payload in (b"\x03", b"\x03" + bytes(11), b"\xff" * 30, bad_label, b"\x02"):
            await sctp._send(stream, WEBRTC_DCEP, payload)
        for kind in (WEBRTC_BINARY, 7777):
            await sctp._send(stream, kind, chance.randbytes(50))
        # Messages that are none on our own.
        await sctp._send(channel.id, WEBRTC_BINARY, chance.randbytes(50))
        await sctp._send(channel.id, WEBRTC_STRING, b"\xff\xfe{")
        await sctp._send(channel.id, WEBRTC_STRING, b"{\"type\":")
        # RTP of sources and payload types that were never agreed, and RTCP that is none.
        for ssrc, kind in ((chance.getrandbits(32), 96), (chance.getrandbits(32), 127), (round, 13)):
            packet = RtpPacket(payload_type=kind, sequence_number=chance.getrandbits(16), ssrc=ssrc, payload=b"x" * 60)
            await dtls._send_rtp(packet.serialize())
        await dtls._send_rtp(b"\x80\xc8\x00\x06" + chance.randbytes(24))

    for round in range(40):
        await misbehave(round)
        await asyncio.sleep(0.02)
    before = packets
    channel.send(json.dumps({"type": "ping", "t": 9}))
    await asyncio.sleep(2)
    print(json.dumps({
        "kinds": [message["type"] for message in told],
        "errors": sum(message["type"] == "error" for message in told),
        "heard_after": packets - before,
        "state": pc.connectionState,
    }))
    await pc.close()


asyncio.run(main(sys.argv[1]))
