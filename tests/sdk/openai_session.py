"""A full session of openai-python with whatever speaks the Realtime wire at BASE (http://host:port/v1): text, tool, audio,
interruption, error. Prints one JSON object; any broken expectation ends it with a traceback."""
import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI

BASE, MODEL = sys.argv[1], sys.argv[2]
TOOL = {
    "type": "function", "name": "weather", "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}


class Session:
    def __init__(self, connection):
        self.connection = connection
        self.seen = []
        self.audio = {}

    async def until(self, kind, seconds=20, **wanted):
        """Reads events up to the first of this kind."""
        async def read():
            async for event in self.connection:
                self.seen.append(event.type)
                if event.type == "response.output_audio.delta":
                    self.audio.setdefault(event.item_id, bytearray()).extend(base64.b64decode(event.delta))
                if event.type == kind and all(getattr(event, name) == value for name, value in wanted.items()):
                    return event
            raise AssertionError(f"closed while waiting for {kind}")
        try:
            return await asyncio.wait_for(read(), seconds)
        except TimeoutError:
            raise AssertionError(f"{kind} never came; there were {self.seen}")

    async def ask(self, text):
        await self.connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
        await self.connection.response.create()


async def speak(connection, pcm, seconds):
    """Sends PCM at 24 kHz in real time, 20 ms at a time, with silence behind it."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    pcm = bytes(pcm) + b"\0" * 48000
    for n in range(int(seconds * 50)):
        piece = pcm[n * 960:(n + 1) * 960] or b"\0" * 960
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        await asyncio.sleep(max(0, begun + (n + 1) * 0.02 - loop.time()))


async def main():
    client = AsyncOpenAI(api_key="sk-test", base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1))
    async with client.realtime.connect(model=MODEL) as connection:
        session = Session(connection)
        created = await session.until("session.created")
        assert created.session.type == "realtime", created
        await connection.session.update(session={
            "type": "realtime", "tools": [TOOL],
            "audio": {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": {
                "type": "server_vad", "create_response": True, "interrupt_response": True}}},
        })
        updated = await session.until("session.updated")
        tools = [tool.name for tool in updated.session.tools or []]

        # A tool call: the first question is answered by one.
        await session.ask("What is the weather?")
        call = await session.until("response.function_call_arguments.done")
        json.loads(call.arguments)
        done = await session.until("response.done")
        assert done.response.output[0].call_id == call.call_id, done
        await connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        await connection.response.create()
        done = await session.until("response.done", 30)
        assert done.response.status == "completed", done
        assert done.response.output[0].content[0].transcript, done
        item = done.response.output[0].id
        speech = session.audio[item]
        assert len(speech) > 48000, len(speech)

        # An error of the client's own making leaves the session open.
        await connection.send({"type": "response.cancel", "event_id": "mine"})
        error = await session.until("error")
        assert error.error.event_id == "mine", error

        # The caller speaks while the agent does.
        await session.ask("Tell me more.")
        started = await session.until("response.output_item.added")
        caller = asyncio.create_task(speak(connection, speech[:72000], 3))
        await session.until("input_audio_buffer.speech_started")
        done = await session.until("response.done")
        assert done.response.status == "cancelled", done
        assert done.response.status_details.reason == "turn_detected", done
        heard = len(session.audio.get(started.item.id, b"")) // 48 // 2
        await connection.conversation.item.truncate(item_id=started.item.id, content_index=0, audio_end_ms=heard)
        truncated = await session.until("conversation.item.truncated")
        assert truncated.audio_end_ms == heard, truncated
        await session.until("conversation.item.input_audio_transcription.completed", 20)
        done = await session.until("response.done", 30)
        assert done.response.status == "completed", done
        await caller
        print(json.dumps({"ok": True, "tools": tools, "heard_ms": heard, "events": sorted(set(session.seen))}))


asyncio.run(asyncio.wait_for(main(), 100))
