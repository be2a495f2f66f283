"""A full session of the vendor's own SDK: deepgram_call.py HOST:PORT SPEECH

SPEECH is PCM16 at 16 kHz. Prints what happened as one line of JSON.
"""

import asyncio
import json
import sys

from deepgram import AsyncDeepgramClient
from deepgram.agent.v1.types import (
    AgentV1InjectUserMessage,
    AgentV1SendFunctionCallResponse,
    AgentV1Settings,
    AgentV1UpdatePrompt,
)
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment

HOST, SPEECH = sys.argv[1:3]
CHUNK = 640  # 20 ms
SETTINGS = {
    "type": "Settings",
    "audio": {
        "input": {"encoding": "linear16", "sample_rate": 16000},
        "output": {"encoding": "linear16", "sample_rate": 24000, "container": "none"},
    },
    "agent": {
        "greeting": "Hello!",
        "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
        "think": {
            "provider": {"type": "open_ai", "model": "gpt-4o-mini"},
            "functions": [{"name": "lookup_order", "description": "Find an order", "parameters": {"type": "object"}}],
        },
        "speak": {"provider": {"type": "deepgram", "model": "aura-2-thalia-en"}},
    },
}


class Call:
    def __init__(self, agent):
        self.agent = agent
        self.events = []
        self.speech = b""

    async def listen(self):
        async for message in self.agent:
            if isinstance(message, bytes):
                self.events.append(("audio", len(message)))
                continue
            kind = getattr(message, "type", None) or message["type"]
            self.events.append((kind, getattr(message, "content", None) or getattr(message, "code", None)))
            if kind == "FunctionCallRequest":
                call = message.functions[0]
                answer = AgentV1SendFunctionCallResponse(id=call.id, name=call.name, content="sent on Friday")
                await self.agent.send_function_call_response(answer)

    async def talk(self):
        clock = asyncio.get_running_loop()
        due = clock.time()
        while True:
            chunk, self.speech = self.speech[:CHUNK], self.speech[CHUNK:]
            await self.agent.send_media(chunk.ljust(CHUNK, b"\0"))
            due += CHUNK / 32000
            await asyncio.sleep(max(0, due - clock.time()))

    async def wait(self, kind, count=1):
        async with asyncio.timeout(20):
            while sum(event[0] == kind for event in self.events) < count:
                await asyncio.sleep(0.02)


def client(key):
    where = DeepgramClientEnvironment(
        base=f"http://{HOST}", production=f"ws://{HOST}", agent=f"ws://{HOST}", agent_rest=f"http://{HOST}"
    )
    return AsyncDeepgramClient(api_key=key, environment=where)


async def main():
    speech = open(SPEECH, "rb").read()
    refused = None
    try:
        async with client("wrong").agent.v1.connect():
            pass
    except ApiError as error:
        refused = error.status_code
    async with client("secret").agent.v1.connect() as agent:
        call = Call(agent)
        listening = asyncio.create_task(call.listen())
        await call.wait("Welcome")
        await agent.send_settings(AgentV1Settings(**SETTINGS))
        await call.wait("SettingsApplied")
        await agent.send_keep_alive()
        talking = asyncio.create_task(call.talk())
        await call.wait("audio", 3)
        call.speech = speech  # into the greeting: an interruption, then the tool, then the answer
        await call.wait("UserStartedSpeaking")
        await call.wait("FunctionCallRequest")
        await call.wait("AgentStartedSpeaking", 2)
        await agent.send_inject_user_message(AgentV1InjectUserMessage(content="and an error, please"))
        await call.wait("Warning")
        await call.wait("AgentAudioDone")
        await agent.send_update_prompt(AgentV1UpdatePrompt(prompt="Be brief."))
        await call.wait("PromptUpdated")
        talking.cancel()
        await agent.send_raw("this is no JSON")  # an error that ends it
        await call.wait("Error")
        await asyncio.wait_for(asyncio.gather(listening, return_exceptions=True), 20)
    print(json.dumps({"refused": refused, "events": call.events}, default=str))


asyncio.run(main())
