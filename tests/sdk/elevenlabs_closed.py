"""What the vendor's own SDK makes of a connection that breaks off: elevenlabs_closed.py BASE_URL"""

import json
import sys
import threading

from elevenlabs import ElevenLabs
from elevenlabs.conversational_ai.conversation import Conversation

ended = threading.Event()
details = []


def on_end(what):
    details.append(what)
    ended.set()


client = ElevenLabs(api_key="secret", base_url=sys.argv[1])
conversation = Conversation(client, "agent_1", requires_auth=False, callback_disconnect=on_end)
conversation.start_session()
assert ended.wait(20), "it goes on"
conversation.wait_for_session_end()
print(json.dumps(vars(details[0]), default=str))
