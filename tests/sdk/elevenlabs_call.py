"""A full session of the vendor's own SDK: elevenlabs_call.py BASE_URL SPEECH signed|public

SPEECH is PCM16 at 16 kHz. Prints what happened as one line of JSON.
"""

import json
import sys
import threading
import time

from elevenlabs import ElevenLabs
from elevenlabs.conversational_ai.conversation import AudioInterface, ClientTools, Conversation

BASE, SPEECH, AUTH = sys.argv[1:4]
CHUNK = 8000  # 250 ms, as the SDK documents


class Caller(AudioInterface):
    """Speaks when it is told to, silence else, in real time; notes when what came."""

    def __init__(self):
        self.events = []
        self.speech = b""
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def start(self, input_callback):
        threading.Thread(target=self.talk, args=(input_callback,), daemon=True).start()

    def talk(self, send):
        due = time.monotonic()
        while not self.stopped.is_set():
            with self.lock:
                chunk, self.speech = self.speech[:CHUNK], self.speech[CHUNK:]
            send(chunk.ljust(CHUNK, b"\0"))
            due += CHUNK / 32000
            time.sleep(max(0, due - time.monotonic()))

    def say(self, speech):
        with self.lock:
            self.speech += speech

    def stop(self):
        self.stopped.set()

    def output(self, audio):
        self.events.append(("audio", len(audio)))

    def interrupt(self):
        self.events.append(("interrupt", None))

    def note(self, kind):
        return lambda *values: self.events.append((kind, values))

    def wait(self, kind, count=1):
        give_up = time.monotonic() + 20
        while sum(event[0] == kind for event in self.events) < count:
            assert time.monotonic() < give_up, f"no {kind}: {self.events[-10:]}"
            time.sleep(0.02)


caller = Caller()
tools = ClientTools()
tools.register("lookup_order", lambda parameters: caller.events.append(("tool", parameters)) or "sent on Friday")
conversation = Conversation(
    ElevenLabs(api_key="secret", base_url=BASE),
    "agent_1",
    requires_auth=AUTH == "signed",
    audio_interface=caller,
    client_tools=tools,
    callback_agent_response=caller.note("response"),
    callback_agent_response_correction=caller.note("correction"),
    callback_user_transcript=caller.note("transcript"),
    callback_latency_measurement=caller.note("latency"),
    callback_audio_alignment=caller.note("alignment"),
    callback_disconnect=caller.note("end"),
)
speech = open(SPEECH, "rb").read()
conversation.start_session()
caller.wait("response")
caller.wait("audio", 3)
caller.say(speech)  # into the greeting: an interruption, then the tool, then the answer
caller.wait("interrupt")
caller.wait("correction")
caller.wait("transcript")
caller.wait("tool")
caller.wait("response", 2)
conversation.send_user_message("and an error, please")  # an error that does not end it
caller.wait("response", 3)
conversation.send_contextual_update("The order page is open.")
conversation.register_user_activity()
audio = sum(event[0] == "audio" for event in caller.events)
caller.wait("audio", audio + 2)
conversation.end_session()
name = conversation.wait_for_session_end()
print(json.dumps({"conversation": name, "events": caller.events}, default=str))
