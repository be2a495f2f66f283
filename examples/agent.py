"""A tiny agent server: `python3 agent.py [PORT]`, needs `pip install websockets` (docs/protocol.md, "Agent servers").
It greets with a melody, answers each utterance with another, tells how loud it was, and stops when interrupted."""
import array, asyncio, json, math, sys
from websockets.asyncio.server import serve

RATE, LOUD = 24000, 600  # samples per second of our voice; level from which the caller speaks, of 32768

def tone(hz, length=RATE // 4):
    fade = lambda n: min(1, n / 240, (length - n) / 240)
    return array.array("h", (int(9000 * fade(n) * math.sin(math.tau * hz * n / RATE)) for n in range(length)))

async def call(link):
    turn = sent = heard = 0  # number of our answer; samples that we have sent, and that the caller has heard
    voice = quiet = level = 0  # the caller's utterance: milliseconds of it, of the pause after it, its loudest frame
    say = lambda type, **fields: link.send(json.dumps({"type": type, **fields}))
    async def sing(text, *notes):
        nonlocal turn, sent
        turn += 1
        await say("turn", turn=turn, item=f"a-{turn}", phase="start")
        await say("transcript", item=f"a-{turn}", role="agent", text=text, final=True)
        for samples in map(tone, notes):
            await link.send(samples.tobytes())
            sent += len(samples)
        await say("turn", turn=turn, phase="end")
    async def stop():  # the answer to `flush` is `playout {pos, flush}`
        nonlocal heard
        if heard < sent:
            heard = sent
            await say("flush", id=turn, turn=turn, valid_from=sent)

    async for message in link:
        if isinstance(message, bytes):  # 20 ms of the caller, more or less
            samples = array.array("h", message)
            ms, now = len(samples) / 16, math.sqrt(sum(s * s for s in samples) / max(1, len(samples)))
            voice, quiet, level = (voice + ms, 0, max(level, now)) if now > LOUD else (voice, quiet + ms, level)
            if voice >= 200 and not quiet:
                await stop()
            if voice >= 200 and quiet >= 600:
                text = f"({voice / 1000:.1f} s at {20 * math.log10(level / 32768):.0f} dBFS)"
                await say("transcript", item=f"u-{turn}", role="user", text=text, final=True)
                await sing("La la la la.", *(262 * 2 ** (n / 6) for n in range(3 + int(voice / 250))))
            voice, level = (0, 0) if quiet >= 600 else (voice, level)
        elif (message := json.loads(message))["type"] == "start":
            audio = {"in": {"codec": "pcm16", "rate": 16000}, "out": {"codec": "pcm16", "rate": RATE}}
            await say("started", audio=audio, agent={"name": "beeper"})
            await sing("Hello!", 523, 659, 784)
        elif message["type"] == "playout":
            heard = max(heard, message["pos"])
        elif message["type"] == "interrupt":
            await stop()
        elif message["type"] == "end":
            return

async def main(port=9000):
    async with serve(call, "127.0.0.1", int(port), subprotocols=["antiphon.v1"]) as server:
        print("listening on", server.sockets[0].getsockname(), flush=True)
        await server.serve_forever()

asyncio.run(main(*sys.argv[1:]))
