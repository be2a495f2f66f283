"""A full session of the vendor's own SDK: gemini_call.py BASE_URL CERTIFICATE SPEECH

SPEECH is PCM16 at 16 kHz. The SDK insists on TLS. Prints what happened as one line of JSON.
"""

import asyncio
import json
import ssl
import sys

from google import genai
from google.genai import errors, types

BASE, CERTIFICATE, SPEECH = sys.argv[1:4]
CHUNK = 640  # 20 ms
WEATHER = types.FunctionDeclaration(
    name="lookup_order",
    description="Find an order",
    parameters=types.Schema(type="OBJECT", properties={"query": types.Schema(type="STRING")}),
)


def client():
    trusted = ssl.create_default_context(cafile=CERTIFICATE)
    options = types.HttpOptions(base_url=BASE, async_client_args={"ssl": trusted})
    return genai.Client(api_key="secret", http_options=options)


def config(handle=None, **more):
    return types.LiveConnectConfig(
        response_modalities=["AUDIO"],
        system_instruction="Be kind.",
        speech_config=types.SpeechConfig(
            voice_config=types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name="Puck"))
        ),
        input_audio_transcription=types.AudioTranscriptionConfig(),
        output_audio_transcription=types.AudioTranscriptionConfig(),
        session_resumption=types.SessionResumptionConfig(handle=handle),
        tools=[types.Tool(function_declarations=[WEATHER])],
        **more,
    )


class Call:
    def __init__(self, session):
        self.session = session
        self.events = []
        self.speech = b""
        self.handle = None

    async def listen(self):
        while True:
            async for message in self.session.receive():
                await self.take(message)

    async def take(self, message):
        content = message.server_content
        if content:
            if content.input_transcription:
                self.events.append(("heard", content.input_transcription.text))
            if content.interrupted:
                self.events.append(("interrupted", None))
            if content.output_transcription:
                self.events.append(("said", content.output_transcription.text))
            if content.model_turn:
                for part in content.model_turn.parts:
                    assert part.inline_data.mime_type == "audio/pcm;rate=24000"
                    self.events.append(("audio", len(part.inline_data.data)))
            if content.generation_complete:
                self.events.append(("generated", None))
            if content.turn_complete:
                self.events.append(("complete", None))
        if message.tool_call:
            for call in message.tool_call.function_calls:
                self.events.append(("tool", call.args))
                answer = types.FunctionResponse(id=call.id, name=call.name, response={"output": "sent on Friday"})
                await self.session.send_tool_response(function_responses=[answer])
        if message.usage_metadata:
            self.events.append(("usage", message.usage_metadata.response_token_count))
        if message.go_away:
            self.events.append(("go_away", message.go_away.time_left))
        if message.session_resumption_update and message.session_resumption_update.resumable:
            self.handle = message.session_resumption_update.new_handle

    async def talk(self):
        clock = asyncio.get_running_loop()
        due = clock.time()
        while True:
            chunk, self.speech = self.speech[:CHUNK], self.speech[CHUNK:]
            audio = types.Blob(data=chunk.ljust(CHUNK, b"\0"), mime_type="audio/pcm;rate=16000")
            await self.session.send_realtime_input(audio=audio)
            due += CHUNK / 32000
            await asyncio.sleep(max(0, due - clock.time()))

    async def wait(self, kind, count=1):
        async with asyncio.timeout(20):
            while sum(event[0] == kind for event in self.events) < count:
                await asyncio.sleep(0.02)


async def error_of(model, settings):
    """How the SDK reports that the service ends the session."""
    try:
        async with client().aio.live.connect(model=model, config=settings) as session:
            async for _ in session.receive():
                pass
        return None
    except errors.APIError as error:
        return error.code
    except Exception as error:  # noqa: BLE001 - the kind is what is reported
        return type(error).__name__


async def main():
    async with client().aio.live.connect(model="gemini-live", config=config()) as session:
        call = Call(session)
        tasks = [asyncio.create_task(call.listen()), asyncio.create_task(call.talk())]
        turn = types.Content(role="user", parts=[types.Part(text="Tell me.")])
        await session.send_client_content(turns=turn, turn_complete=True)
        await call.wait("tool")
        await call.wait("audio", 3)
        call.speech = open(SPEECH, "rb").read()
        await call.wait("interrupted")
        await call.wait("heard")
        before = len(call.events)
        await call.wait("go_away")
        await session.send_realtime_input(text="And now?")
        await asyncio.sleep(1.0)
        for task in tasks:
            task.cancel()
    async with client().aio.live.connect(model="gemini-live", config=config(call.handle)) as session:
        again = Call(session)
        listening = asyncio.create_task(again.listen())
        await session.send_realtime_input(text="Go on.")
        await again.wait("complete")
        listening.cancel()
    refused = await error_of("gemini-live", config("nonsense"))
    events = {"events": call.events, "before": before, "again": again.events, "refused": refused}
    print(json.dumps({**events, "handle": call.handle}))


asyncio.run(main())
