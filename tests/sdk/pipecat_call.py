"""A full session of pipecat-ai's own clients: pipecat_call.py URL SPEECH protobuf|rtvi

SPEECH is PCM16 at 16 kHz. `protobuf` is its frame serializer on its WebSocket transport, `rtvi` its RTVI client
transport. Prints what happened as one line of JSON.
"""

import asyncio
import json
import sys

from loguru import logger

logger.remove()

from pipecat.frames.frames import (  # noqa: E402
    EndFrame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    TranscriptionFrame,
    TTSTextFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    FunctionCallInProgressFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor  # noqa: E402
from pipecat.serializers.protobuf import ProtobufFrameSerializer  # noqa: E402
from pipecat.transports.websocket.client import WebsocketClientParams, WebsocketClientTransport  # noqa: E402
from pipecat.transports.websocket.rtvi_client import RTVIClientTransport  # noqa: E402

URL, SPEECH, WIRE = sys.argv[1:4]
CHUNK = 640  # 20 ms
EVENTS = []


def message(kind, data):
    content = {"label": "rtvi-ai", "type": kind, "id": kind, "data": data}
    return OutputTransportMessageUrgentFrame(message=content)


class Caller(FrameProcessor):
    """Notes what comes from the bot and says what it is told to."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            EVENTS.append(("audio", len(frame.audio), frame.sample_rate))
            return
        if isinstance(frame, InterruptionFrame):
            EVENTS.append(("interruption", None))
        if isinstance(frame, InputTransportMessageFrame):
            data = frame.message.get("data") or {}
            EVENTS.append((frame.message["type"], data.get("text") or data.get("error")))
            if frame.message["type"] == "llm-function-call-in-progress":
                await self.answer(data["function_name"], data["tool_call_id"], data["arguments"])
        if isinstance(frame, FunctionCallInProgressFrame):
            EVENTS.append(("llm-function-call-in-progress", None))
            await self.answer(frame.function_name, frame.tool_call_id, frame.arguments)
        for kind, name in [
            (TTSTextFrame, "bot-tts-text"),
            (TranscriptionFrame, "user-transcription"),
        ]:
            if isinstance(frame, kind):
                EVENTS.append((name, frame.text))
        await self.push_frame(frame, direction)

    async def answer(self, name, call, arguments):
        data = {"function_name": name, "tool_call_id": call, "arguments": dict(arguments), "result": "sent on Friday"}
        await self.push_frame(message("llm-function-call-result", data))


async def wait(kind, count=1):
    async with asyncio.timeout(20):
        while sum(event[0] == kind for event in EVENTS) < count:
            await asyncio.sleep(0.02)


async def main():
    params = WebsocketClientParams(audio_in_enabled=True, audio_out_enabled=True, audio_out_sample_rate=16000)
    if WIRE == "protobuf":
        params.serializer = ProtobufFrameSerializer()
        params.add_wav_header = False
        transport = WebsocketClientTransport(URL, params)
    else:
        transport = RTVIClientTransport(URL, params)
    caller = Caller()
    worker = PipelineWorker(
        Pipeline([transport.input(), caller, transport.output()]),
        params=PipelineParams(audio_in_sample_rate=24000, audio_out_sample_rate=16000),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    speech = open(SPEECH, "rb").read()
    queue = [b""]

    async def talk():
        clock = asyncio.get_running_loop()
        due = clock.time()
        while True:
            chunk, queue[0] = queue[0][:CHUNK], queue[0][CHUNK:]
            audio = OutputAudioRawFrame(audio=chunk.ljust(CHUNK, b"\0"), sample_rate=16000, num_channels=1)
            await caller.push_frame(audio)
            due += CHUNK / 32000
            await asyncio.sleep(max(0, due - clock.time()))

    await asyncio.sleep(1)
    if WIRE == "protobuf":
        about = {"library": "pipecat", "library_version": "1.14.0"}
        await caller.push_frame(message("client-ready", {"version": "2.2.0", "about": about}))
    talking = asyncio.create_task(talk())
    await wait("audio" if WIRE == "protobuf" else "bot-tts-text", 3)
    queue[0] = speech
    await wait("interruption")
    await wait("user-transcription")
    await wait("llm-function-call-in-progress")
    before = sum(event[0] == "bot-tts-text" for event in EVENTS)
    await wait("bot-tts-text", before + 1)
    if WIRE == "protobuf":
        await caller.push_frame(message("send-text", {"content": "an error please"}))
        await wait("error")
    talking.cancel()
    await worker.queue_frame(EndFrame())
    await asyncio.wait_for(running, 10)
    print(json.dumps({"events": EVENTS}))


asyncio.run(main())
