"""A full session of openai-agents (Python) with whatever speaks the Realtime wire at URL: tool, audio, interruption, error."""
import asyncio
import json
import sys

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner

URL = sys.argv[1]
CALLS = []


@function_tool
def weather(query: str) -> str:
    """Tells the weather."""
    CALLS.append(query)
    return "rain"


async def main():
    agent = RealtimeAgent(name="assistant", instructions="Be brief.", tools=[weather])
    runner = RealtimeRunner(agent)
    settings = {"model_name": URL.rsplit("=", 1)[1]}
    session = await runner.run(model_config={"url": URL, "api_key": "sk-test", "initial_model_settings": settings})
    audio, seen, raw = bytearray(), [], []

    async with session:
        events = session.__aiter__()

        async def until(wanted, seconds=20):
            async def read():
                while True:
                    event = await events.__anext__()
                    seen.append(event.type)
                    if event.type == "audio":
                        audio.extend(event.audio.data)
                    if event.type == "raw_model_event":
                        raw.append(event.data.type)
                    if wanted(event):
                        return event
            try:
                return await asyncio.wait_for(read(), seconds)
            except TimeoutError:
                raise AssertionError(f"nothing of the kind came; there were {seen[-40:]} {raw[-40:]}")

        await session.send_message("What is the weather?")
        await until(lambda event: event.type == "tool_end")
        assert CALLS, "the tool was not run"
        await until(lambda event: event.type == "audio_end", 30)
        speech = bytes(audio)
        assert len(speech) > 48000, len(speech)
        await until(lambda event: event.type == "raw_model_event" and event.data.type == "turn_ended")

        # An error of the client's own making is told and ends nothing.
        from agents.realtime.model_inputs import RealtimeModelSendRawMessage
        await session.model.send_event(RealtimeModelSendRawMessage(message={"type": "response.cancel"}))
        await until(lambda event: event.type == "error" or (event.type == "raw_model_event" and event.data.type == "error"))

        await session.send_message("Tell me more.")
        await until(lambda event: event.type == "audio")

        async def speak():
            pcm = speech[:72000] + b"\0" * 72000
            for start in range(0, len(pcm), 960):
                await session.send_audio(pcm[start:start + 960])
                await asyncio.sleep(0.018)

        caller = asyncio.create_task(speak())
        await until(lambda event: event.type == "audio_interrupted")
        await until(lambda event: event.type == "audio", 30)
        await until(lambda event: event.type == "audio_end", 30)
        await caller
        history = [item for item in session._history if getattr(item, "role", "") == "assistant"]
    print(json.dumps({"ok": True, "calls": CALLS, "answers": len(history), "events": sorted(set(seen))}))


asyncio.run(asyncio.wait_for(main(), 100))
