"""openai-python makes a client secret with the key KEY at BASE (http://host:port/v1), calls with it over WebSocket and WebRTC,
and is refused with wrong ones. Prints one JSON object; any broken expectation ends it with a traceback."""
import asyncio
import json
import sys
import time

import openai
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from openai import AsyncOpenAI

BASE, KEY = sys.argv[1], sys.argv[2]


def client(key):
    return AsyncOpenAI(api_key=key, base_url=BASE, websocket_base_url=BASE.replace("http", "ws", 1), max_retries=0)


async def until(connection, kind):
    async def read():
        async for event in connection:
            if event.type == kind:
                return event
    return await asyncio.wait_for(read(), 20)


async def call(key):
    """A call over WebRTC whose offer says nothing but the key; gives the first event."""
    pc, said = RTCPeerConnection(), asyncio.get_running_loop().create_future()
    try:
        channel = pc.createDataChannel("oai-events")
        channel.on("message", lambda text: said.done() or said.set_result(json.loads(text)))
        pc.addTrack(AudioStreamTrack())
        await pc.setLocalDescription(await pc.createOffer())
        answer = await client(key).realtime.calls.create(sdp=pc.localDescription.sdp)
        await pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        return await asyncio.wait_for(said, 20)
    finally:
        await pc.close()


async def main():
    secret = await client(KEY).realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 120},
        session={"type": "realtime", "model": "echo", "audio": {"output": {"voice": "marin"}}})
    assert secret.value.startswith("ek_"), secret
    assert 60 < secret.expires_at - time.time() < 130, secret
    assert secret.session.type == "realtime" and secret.session.model == "echo", secret
    async with client(secret.value).realtime.connect(model="echo") as connection:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime", "instructions": ""})
        await until(connection, "session.updated")
    created = await call(secret.value)
    assert created["type"] == "session.created", created
    statuses = []
    changed = secret.value[:-2] + ("AA" if secret.value[-2:] != "AA" else "BB")
    for key in [changed, "sk-nonsense"]:
        try:
            async with client(key).realtime.connect(model="echo") as connection:
                await until(connection, "session.created")
            raise AssertionError("a wrong key was let in")
        except Exception as error:  # The class is the WebSocket library's own.
            statuses.append(error.response.status_code)
        try:
            await call(key)
            raise AssertionError("a call was made with a wrong key")
        except openai.AuthenticationError as error:
            statuses.append(error.body["code"])
    try:
        await client(secret.value).realtime.client_secrets.create(session={"type": "realtime"})
        raise AssertionError("a client secret made another one")
    except openai.PermissionDeniedError as error:
        statuses.append(error.status_code)
        code = error.body["code"]
    print(json.dumps({"ok": True, "statuses": statuses, "code": code}))


asyncio.run(main())
