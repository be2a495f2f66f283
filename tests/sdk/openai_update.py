"""openai-python asks at BASE (http://host:port/v1) for everything that a session can be changed by, twice. Prints the session
as `session.updated` tells it each time."""
import asyncio
import json
import sys

from openai import AsyncOpenAI

BASE, MODEL = sys.argv[1], sys.argv[2]
TOOL = {"type": "function", "name": "weather", "description": "Tells the weather", "parameters": {"type": "object"}}


def wishes(voice, instructions):
    return {
        "type": "realtime", "model": "another", "instructions": instructions, "tools": [TOOL],
        "output_modalities": ["text"], "tool_choice": "required",
        "audio": {
            "input": {"turn_detection": None, "transcription": {"model": "whisper-1", "language": "de"}},
            "output": {"voice": voice, "speed": 1.5},
        },
    }


async def main():
    client = AsyncOpenAI(api_key="sk-test", base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1))
    async with client.realtime.connect(model=MODEL) as connection:
        told = []
        for wish in (wishes("cedar", "Be rude."), wishes("ash", "")):
            await connection.session.update(session=wish)
            async for event in connection:
                assert event.type != "error", event
                if event.type == "session.updated":
                    told.append(event.session.model_dump(exclude_unset=True))
                    break
    print(json.dumps(told))


asyncio.run(asyncio.wait_for(main(), 60))
