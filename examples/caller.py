import json, sys, threading, time, wave
from websockets.sync.client import connect
url, speech, reply = sys.argv[1:]  # ws://127.0.0.1:8080/v1/session speech.wav reply.wav
with wave.open(speech) as wav, connect(url, subprotocols=["antiphon.v1"]) as link, wave.open(reply, "wb") as out:
    out.setparams((1, 2, 24000, 0, "NONE", ""))
    audio = {"in": {"codec": "pcm16", "rate": wav.getframerate()}, "out": {"codec": "pcm16", "rate": 24000}}
    link.send(json.dumps({"type": "start", "audio": audio}))
    def speak():  # 20 ms every 20 ms, then wait for the rest of the answer
        while frame := wav.readframes(wav.getframerate() // 50):
            link.send(frame), time.sleep(0.02)
        time.sleep(3), link.send('{"type": "end"}')
    threading.Thread(target=speak, daemon=True).start()
    for message in link:
        out.writeframes(message) if isinstance(message, bytes) else print(message)
