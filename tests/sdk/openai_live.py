"""A full session of openai-python with whatever speaks the Live wire at BASE (http://host:port/v1): audio both ways,
transcripts, a tool call by the model behind the session, an interruption, errors, the end. SPEECH is PCM16 at 16 kHz.
Each event must be one of the library's own types. Prints one JSON object."""
import array
import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI
from openai.types.live import ServerEvent
from pydantic import TypeAdapter
from websockets.exceptions import InvalidStatus

BASE, SPEECH = sys.argv[1], sys.argv[2]
TOOL = {"type": "function", "name": "lookup_order", "parameters": {"type": "object", "properties": {}}}
KNOWN = TypeAdapter(ServerEvent)


class Session:
    def __init__(self, connection):
        self.connection, self.events = connection, []

    async def until(self, kind, seconds=30, wanted=lambda event: True):
        async def read():
            while True:
                raw = await self.connection.recv_bytes()
                KNOWN.validate_json(raw)
                event = self.connection.parse_event(raw)
                if event.type == "session.output_audio.delta":
                    samples = array.array("h", base64.b64decode(event.delta))
                    self.events.append(["voice" if max(map(abs, samples)) > 200 else "silence", len(samples)])
                else:
                    self.events.append([event.type, getattr(event, "delta", None)])
                if event.type == kind and wanted(event):
                    return event
        try:
            return await asyncio.wait_for(read(), seconds)
        except TimeoutError:
            raise AssertionError(f"{kind} never came; there were {self.events}")


async def speak(connection):
    """The caller's voice in real time, 20 ms at a time, for ever: silence after the speech."""
    speech, loop = open(SPEECH, "rb").read(), asyncio.get_running_loop()
    begun, n = loop.time(), 0
    while True:
        piece = speech[n * 640:(n + 1) * 640] or b"\0" * 640
        await connection.session.input_audio.append(audio=base64.b64encode(piece).decode())
        n += 1
        await asyncio.sleep(max(0, begun + n * 0.02 - loop.time()))


async def refused():
    client = AsyncOpenAI(api_key="wrong", base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1))
    try:
        async with client.live.connect():
            return None
    except InvalidStatus as error:
        return error.response.status_code


async def main():
    client = AsyncOpenAI(api_key="secret", base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1))
    async with client.live.connect() as connection:
        session = Session(connection)
        # Nothing goes before the start.
        await connection.session.input_audio.append(audio="", event_id="early")
        early = await session.until("error")
        await connection.session.start(event_id="start", session={
            "model": "gpt-live-1", "instructions": "Be brief.",
            "audio": {"format": {"type": "audio/pcm", "rate": 16000}, "output": {"voice": "cedar"}},
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "I ordered a book."}]}],
            "delegation": {"type": "responses", "responses": {"model": "gpt-5.5", "tools": [TOOL]}},
        })
        started = await session.until("session.started")
        await connection.session.commentary.append(delegation_id=None, content="Say hello.")
        await session.until("session.commentary.appended")

        # The tool, called by the model behind the session; its result is answered.
        call = await session.until(
            "response.event", wanted=lambda event: event.event["type"] == "response.output_item.done")
        item = call.event["item"]
        await connection.response.create(event_id="hasty")
        hasty = await session.until("error")
        await connection.response.item.create(
            item={"type": "function_call_output", "call_id": item["call_id"], "output": "sent on Friday"})
        await connection.response.create()
        await session.until("session.output_transcript.delta")
        for _ in range(8):
            await session.until("session.output_audio.delta")

        # The caller speaks into the answer: it falls silent, and the caller is understood and answered.
        session.events.append(["speaks", None])
        caller = asyncio.create_task(speak(connection))
        await session.until("session.usage.updated")
        session.events.append(["stopped", None])
        heard = await session.until("session.input_transcript.delta")
        await session.until("session.output_transcript.delta")
        caller.cancel()
        await connection.session.close(event_id="bye")
        closed = await session.until("session.closed")
        try:
            await connection.recv()
            code = None
        except Exception as error:
            code = error.rcvd.code
    print(json.dumps({
        "early": [early.error.client_event_id, early.error.code], "hasty": hasty.error.code,
        "voice": started.session.audio.output.voice, "started": started.client_event_id, "call": item,
        "heard": heard.delta, "events": session.events, "closed": [closed.reason, closed.usage.seconds],
        "code": code, "refused": await refused(),
    }))


asyncio.run(asyncio.wait_for(main(), 100))
