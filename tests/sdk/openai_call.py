"""A full call over WebRTC that openai-python makes at BASE (http://host:port/v1) and aiortc carries: the session goes along
with the offer; tool, audio, an error, interruption by the client and by speech, hang-up. Prints one JSON object."""
import asyncio
import fractions
import json
import sys
import time
from array import array

from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame, AudioResampler
from openai import APIStatusError, AsyncOpenAI

BASE, MODEL = sys.argv[1], sys.argv[2]
RATE, FRAME = 48000, 960
TOOL = {
    "type": "function", "name": "weather", "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}


class Microphone(MediaStreamTrack):
    """Never off: what is to be said, then silence."""
    kind = "audio"

    def __init__(self):
        super().__init__()
        self.to_say, self.at, self.begun = array("h"), 0, None

    async def recv(self):
        self.begun = self.begun or time.time()
        await asyncio.sleep(max(0, self.begun + self.at / RATE - time.time()))
        piece, self.to_say = self.to_say[:FRAME], self.to_say[FRAME:]
        piece.extend([0] * (FRAME - len(piece)))
        frame = AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(piece.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.at, fractions.Fraction(1, RATE)
        self.at += FRAME
        return frame


class Call:
    def __init__(self):
        self.events, self.arrived, self.read = [], asyncio.Event(), 0
        self.heard = array("h")
        self.closed = asyncio.Event()

    def take(self, text):
        self.events.append(json.loads(text))
        self.arrived.set()

    async def listen(self, track):
        mono = AudioResampler(format="s16", layout="mono", rate=RATE)
        try:
            while True:
                for frame in mono.resample(await track.recv()):
                    piece = array("h", bytes(frame.planes[0])[: 2 * frame.samples])
                    if max(piece) > 500:
                        self.heard.extend(piece)
        except Exception:
            pass

    async def until(self, kind, **wanted):
        """Reads events up to the first of this kind."""
        async def read():
            while True:
                while self.read < len(self.events):
                    event = self.events[self.read]
                    self.read += 1
                    if event["type"] == kind and all(event.get(name) == value for name, value in wanted.items()):
                        return event
                self.arrived.clear()
                await self.arrived.wait()
        try:
            return await asyncio.wait_for(read(), 30)
        except TimeoutError:
            raise AssertionError(f"{kind} never came; there were {[event['type'] for event in self.events]}")

    async def until_heard(self, seconds):
        while len(self.heard) < seconds * RATE:
            await asyncio.sleep(0.02)


async def main():
    client = AsyncOpenAI(api_key="sk-test", base_url=BASE, max_retries=0)
    call, microphone = Call(), Microphone()
    pc = RTCPeerConnection()
    channel = pc.createDataChannel("oai-events")
    channel.on("message", call.take)
    channel.on("close", call.closed.set)
    pc.addTrack(microphone)
    listening = []
    pc.on("track", lambda track: listening.append(asyncio.ensure_future(call.listen(track))))
    await pc.setLocalDescription(await pc.createOffer())
    session = {
        "type": "realtime", "model": MODEL, "tools": [TOOL],
        "audio": {"input": {"transcription": {"model": "whisper-1"}}},
    }
    answer = await client.realtime.calls.create(sdp=pc.localDescription.sdp, session=session)
    assert answer.response.status_code == 201, answer.response
    place = answer.response.headers["location"]
    call_id = place.rsplit("/", 1)[1]
    assert call_id.startswith("rtc_"), place
    await pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    def send(**event):
        channel.send(json.dumps(event))

    def ask(text):
        send(type="conversation.item.create", item={
            "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
        send(type="response.create")

    created = (await call.until("session.created"))["session"]
    assert [tool["name"] for tool in created["tools"]] == ["weather"], created
    send(type="session.update", session={"type": "realtime", "instructions": "Be brief."})
    updated = (await call.until("session.updated"))["session"]

    # A tool call, its answer, and what plays.
    ask("What is the weather?")
    asked = await call.until("response.function_call_arguments.done")
    await call.until("response.done")
    send(type="conversation.item.create", item={
        "type": "function_call_output", "call_id": asked["call_id"], "output": "rain"})
    send(type="response.create")
    response = (await call.until("response.created"))["response"]["id"]
    await call.until("output_audio_buffer.started", response_id=response)
    done = await call.until("response.done")
    assert done["response"]["status"] == "completed", done
    await call.until("output_audio_buffer.stopped", response_id=response)
    speech = call.heard
    assert len(speech) > RATE, len(speech)

    # An error of the client's own making leaves the call as it is.
    send(type="response.cancel", event_id="mine")
    error = await call.until("error")
    assert error["error"]["event_id"] == "mine", error

    # The client stops the agent.
    call.heard = array("h")
    ask("Tell me more.")
    response = (await call.until("response.created"))["response"]["id"]
    await call.until_heard(0.5)
    send(type="response.cancel")
    send(type="output_audio_buffer.clear")
    done = await call.until("response.done")
    assert done["response"]["status_details"]["reason"] == "client_cancelled", done
    await call.until("output_audio_buffer.cleared", response_id=response)
    truncated = await call.until("conversation.item.truncated")
    await asyncio.sleep(0.4)
    after = len(call.heard)
    await asyncio.sleep(0.5)
    assert len(call.heard) == after, "the agent speaks on"

    # The caller speaks while the agent does, and is answered.
    call.heard = array("h")
    ask("And more.")
    response = (await call.until("response.created"))["response"]["id"]
    await call.until_heard(0.5)
    microphone.to_say.extend(speech[: RATE * 3 // 2])
    await call.until("input_audio_buffer.speech_started")
    done = await call.until("response.done")
    assert done["response"]["status_details"]["reason"] == "turn_detected", done
    await call.until("output_audio_buffer.cleared", response_id=response)
    await call.until("conversation.item.input_audio_transcription.completed")
    done = await call.until("response.done")
    assert done["response"]["status"] == "completed", done

    # What is refused is told as this client expects it.
    refusals = []
    for wrong in ({"sdp": "v=0"}, {"sdp": pc.localDescription.sdp, "session": {"type": "realtime", "model": "nobody"}}):
        try:
            await client.realtime.calls.create(**wrong)
        except APIStatusError as refused:
            refusals.append([refused.status_code, refused.body["code"]])

    await client.realtime.calls.hangup(call_id)
    await asyncio.wait_for(call.closed.wait(), 10)
    await pc.close()
    print(json.dumps({
        "ok": True, "created": created, "updated": updated, "heard_ms": truncated["audio_end_ms"], "refusals": refusals,
        "events": sorted({event["type"] for event in call.events}),
    }))


asyncio.run(asyncio.wait_for(main(), 110))
