"""Completions by the vendor's own SDK: chat_call.py BASE_URL. Prints what happened as one line of JSON."""

import json
import sys

from openai import APIError, AuthenticationError, OpenAI

BASE = sys.argv[1]
TOOL = {"type": "function", "function": {"name": "lookup_order", "parameters": {"type": "object"}}}
client = OpenAI(api_key="secret", base_url=BASE, max_retries=0)


def stream(messages, **more):
    pieces, calls, usage = [], {}, None
    answer = client.chat.completions.create(
        model="any", messages=messages, stream=True, stream_options={"include_usage": True}, **more
    )
    for chunk in answer:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            for call in choice.delta.tool_calls or []:
                known = calls.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                known["arguments"] += call.function.arguments or ""
    return pieces, list(calls.values()), usage


asked = [{"role": "user", "content": "Hello there"}]
pieces, _, usage = stream(asked)
whole = client.chat.completions.create(model="any", messages=asked).choices[0].message.content
wants = [{"role": "user", "content": "use the tool"}]
_, calls, _ = stream(wants, tools=[TOOL])
call = {"id": calls[0]["id"], "type": "function", "function": {k: calls[0][k] for k in ("name", "arguments")}}
result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "sent on Friday"}
after, _, _ = stream(wants + [{"role": "assistant", "tool_calls": [call]}, result], tools=[TOOL])
try:
    broken = stream([{"role": "user", "content": "an error please"}]) and None
except APIError as error:
    broken = error.message
try:
    OpenAI(api_key="wrong", base_url=BASE, max_retries=0).chat.completions.create(model="any", messages=asked)
    refused = None
except AuthenticationError as error:
    refused = error.status_code
print(
    json.dumps(
        {
            "pieces": pieces,
            "whole": whole,
            "calls": calls,
            "after": "".join(after),
            "broken": broken,
            "refused": refused,
            "tokens": usage.total_tokens,
        }
    )
)
