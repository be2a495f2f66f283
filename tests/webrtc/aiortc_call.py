"""Holds a call with the daemon by aiortc and prints what it saw as one line of JSON.

Usage: aiortc_call.py BASE AGENT SPEECH SECONDS [OUT.wav]
"""
import asyncio
import fractions
import json
import sys
import time
import urllib.request
import wave
from array import array

import av
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame, AudioResampler

RATE, FRAME = 48000, 960


def load(path):
    out, mono = array("h"), AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(path) as file:
        for frame in file.decode(audio=0):
            for piece in mono.resample(frame):
                out.frombytes(bytes(piece.planes[0])[: 2 * piece.samples])
    return out


class Speech(MediaStreamTrack):
    kind = "audio"

    def __init__(self, samples):
        super().__init__()
        self.samples, self.at, self.begun = samples, 0, None

    async def recv(self):
        if self.begun is None:
            self.begun = time.time()
        await asyncio.sleep(max(0, self.begun + self.at / RATE - time.time()))
        piece = self.samples[self.at : self.at + FRAME]
        piece.extend([0] * (FRAME - len(piece)))
        frame = AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(piece.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.at, fractions.Fraction(1, RATE)
        self.at += FRAME
        return frame


async def listen(track, heard):
    mono = AudioResampler(format="s16", layout="mono", rate=RATE)
    try:
        while True:
            for frame in mono.resample(await track.recv()):
                heard.frombytes(bytes(frame.planes[0])[: 2 * frame.samples])
    except Exception:
        pass


async def main(base, agent, speech, seconds, out=None):
    messages, heard, connected, spoken = [], array("h"), asyncio.Event(), load(speech)
    pc = RTCPeerConnection()
    channel = pc.createDataChannel("antiphon.v1")
    channel.on("message", lambda text: messages.append(json.loads(text)))
    pc.addTrack(Speech(spoken))
    listening = []
    pc.on("track", lambda track: listening.append(asyncio.ensure_future(listen(track, heard))))

    @pc.on("connectionstatechange")
    def changed():
        if pc.connectionState == "connected":
            connected.set()

    await pc.setLocalDescription(await pc.createOffer())
    body = json.dumps({"sdp": pc.localDescription.sdp, "start": {"agent": agent}}).encode()
    began = time.time()

    def post():
        request = urllib.request.Request(base + "/v1/session/webrtc", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)

    status, answer = await asyncio.to_thread(post)
    answered = time.time()
    await pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
    await asyncio.wait_for(connected.wait(), 10)
    setup = time.time() - began
    for _ in range(200):
        if channel.readyState == "open":
            break
        await asyncio.sleep(0.01)
    channel.send(json.dumps({"type": "ping", "t": 7}))
    await asyncio.sleep(seconds)
    channel.send(json.dumps({"type": "stats"}))
    await asyncio.sleep(0.3)
    stats = [entry for entry in (await pc.getStats()).values() if entry.type == "remote-inbound-rtp"]
    channel.send(json.dumps({"type": "end"}))
    await asyncio.sleep(0.5)
    state_at_end = pc.connectionState
    await pc.close()
    if out:
        for path, samples in ((out, heard), (out + ".spoken.wav", spoken)):
            with wave.open(path, "wb") as file:
                file.setnchannels(1), file.setsampwidth(2), file.setframerate(RATE)
                file.writeframes(samples.tobytes())
    print(json.dumps({
        "status": status, "setup_ms": round(setup * 1000, 1), "answer_ms": round((answered - began) * 1000, 1),
        "started": answer.get("started"), "heard_s": len(heard) / RATE, "kinds": [m["type"] for m in messages],
        "messages": messages, "reports": len(stats), "state_at_end": state_at_end,
        "likeness": likeness(spoken, heard),
    }))


def likeness(a, b):
    """Correlation of the two speech envelopes (10 ms) at the best lag up to 3 s, and that lag."""
    def envelope(samples):
        return [sum(abs(x) for x in samples[i : i + 480 : 4]) for i in range(0, len(samples) - 480, 480)]
    a, b, best = envelope(a), envelope(b), (0.0, 0)
    for lag in range(0, 300):
        pairs = list(zip(a, b[lag:]))
        if len(pairs) < 100:
            break
        n = len(pairs)
        ma, mb = sum(p[0] for p in pairs) / n, sum(p[1] for p in pairs) / n
        va, vb = sum((p[0] - ma) ** 2 for p in pairs), sum((p[1] - mb) ** 2 for p in pairs)
        if va > 0 and vb > 0:
            c = sum((p[0] - ma) * (p[1] - mb) for p in pairs) / (va * vb) ** 0.5
            best = max(best, (round(c, 4), lag * 10))
    return best


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), *sys.argv[5:]))
