"""openai-python asks MODEL at BASE (http://host:port/v1) something, and reads until the connection is closed. Prints what came
of the response, the errors, and the close code."""
import asyncio
import json
import sys

from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed

BASE, MODEL = sys.argv[1], sys.argv[2]


async def main():
    client = AsyncOpenAI(api_key="sk-test", base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1))
    responses, errors, heard = [], [], 0
    async with client.realtime.connect(model=MODEL) as connection:
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Are you there?"}]})
        await connection.response.create()
        try:
            while True:
                event = await connection.recv()
                if event.type == "response.output_audio.delta":
                    heard += 1
                elif event.type == "response.done":
                    responses.append(event.response.status)
                elif event.type == "error":
                    errors.append([event.error.type, event.error.code])
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
    print(json.dumps({"heard": heard > 0, "responses": responses, "errors": errors, "code": code}))


asyncio.run(asyncio.wait_for(main(), 60))
