"""A voice agent that needs no model to be downloaded and no account: voice_agent.py [HOST] [PORT]

Pipecat with the Silero VAD that it brings along, pocketsphinx with a small grammar, and espeak-ng. It greets the
caller, answers questions for the time, the weather and its name, and stops when it is interrupted.

    pip install 'pipecat-ai[silero,websocket]' pocketsphinx    # and the Debian package espeak-ng
    python examples/voice_agent.py 127.0.0.1 8765
    antiphon run --config config/examples/pipecat.toml
"""

import asyncio
import sys
import warnings

warnings.filterwarnings("ignore", category=DeprecationWarning)

from loguru import logger  # noqa: E402

logger.remove()
logger.add(sys.stderr, level="WARNING")

from pipecat.audio.vad.silero import SileroVADAnalyzer  # noqa: E402
from pipecat.audio.vad.vad_analyzer import VADParams  # noqa: E402
from pipecat.frames.frames import (  # noqa: E402
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    VADUserStartedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.audio.vad_processor import VADProcessor  # noqa: E402
from pipecat.processors.frame_processor import FrameProcessor  # noqa: E402
from pipecat.serializers.protobuf import ProtobufFrameSerializer  # noqa: E402
from pipecat.services.settings import STTSettings, TTSSettings  # noqa: E402
from pipecat.services.stt_service import SegmentedSTTService  # noqa: E402
from pipecat.services.tts_service import TTSService  # noqa: E402
from pipecat.transports.websocket.server import (  # noqa: E402
    SingleClientWebsocketServerParams,
    SingleClientWebsocketServerTransport,
)
from pipecat.utils.time import time_now_iso8601  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402
from pocketsphinx import Decoder  # noqa: E402

GREETING = "Hello and welcome. You can ask me for the weather, for the time, or for my name. I am listening to you."
GRAMMAR = """#JSGF V1.0;
grammar questions;
public <question> = what is the weather [today] | what time is it [now] | please tell me your name | thank you very much;
"""
ANSWERS = {
    "weather": "The weather is sunny and warm. There is a light wind from the west, and no rain is expected before "
    "the weekend. It is a very good day for a long walk along the river.",
    "time": "It is always the right time to talk.",
    "name": "My name is Echo, and I was made of three small programs.",
    "thank": "You are very welcome. Goodbye.",
}


class Ears(SegmentedSTTService):
    """Speech to text by a grammar; each utterance is decoded as a whole."""

    wants_wav_segments = False

    def __init__(self):
        super().__init__(settings=STTSettings(model=None, language=None), ttfs_p99_latency=0.5)
        self.decoder = Decoder(samprate=16000, lm=None, loglevel="FATAL")
        self.decoder.add_jsgf_string("questions", GRAMMAR)
        self.decoder.activate_search("questions")

    def decode(self, audio):
        self.decoder.start_utt()
        self.decoder.process_raw(audio, no_search=False, full_utt=True)
        self.decoder.end_utt()
        found = self.decoder.hyp()
        return found.hypstr if found else ""

    async def run_stt(self, audio):
        text = await asyncio.to_thread(self.decode, audio)
        if text:
            yield TranscriptionFrame(text, "caller", time_now_iso8601())


class Mind(FrameProcessor):
    """Answers what was understood, and stops when the caller begins to speak."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStartedSpeakingFrame):
            await self.broadcast_interruption()
        await self.push_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            answer = next((text for word, text in ANSWERS.items() if word in frame.text), "I beg your pardon?")
            await self.push_frame(TTSSpeakFrame(answer))


class Voice(TTSService):
    """Text to speech by espeak-ng."""

    def __init__(self):
        settings = TTSSettings(model=None, voice=None, language=None)
        super().__init__(settings=settings, push_start_frame=True, push_stop_frames=True, sample_rate=24000)

    async def run_tts(self, text, context_id):
        command = ["espeak-ng", "--stdout", text]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        wav, _ = await process.communicate()
        rate, samples = int.from_bytes(wav[24:28], "little"), wav[44:]

        async def pieces():
            for at in range(0, len(samples), rate):
                yield samples[at : at + rate]

        async for frame in self._stream_audio_frames_from_iterator(
            pieces(), in_sample_rate=rate, context_id=context_id
        ):
            yield frame


async def main():
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8765
    params = SingleClientWebsocketServerParams(
        serializer=ProtobufFrameSerializer(), audio_in_enabled=True, audio_out_enabled=True
    )
    transport = SingleClientWebsocketServerTransport(params=params, host=host, port=port)
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.5)))
    worker = PipelineWorker(
        Pipeline([transport.input(), vad, Ears(), Mind(), Voice(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=16000, audio_out_sample_rate=24000),
        cancel_on_idle_timeout=False,
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport, _client):
        await worker.queue_frame(TTSSpeakFrame(GREETING))

    @transport.event_handler("on_websocket_ready")
    async def on_websocket_ready(_transport):
        print("listening", flush=True)

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()


asyncio.run(main())
