"""Calls the vendors themselves, with the keys of whoever runs it: make test-live

One call per agent whose keys are in the environment, ended by the relay after LIVE_SECONDS (20). The cost is capped: no
call begins if, at LIVE_PRICE_PER_MINUTE (1.00 in the currency of your contracts, on the high side), all calls could come
to more than LIVE_MAX_COST (2.00). LIVE_AGENTS="openai gemini" takes some agents only, LIVE_PARALLEL=4 calls so many at
once. The report holds no key, no address and no word that was said; it is printed and written to
target/live-report.json.
Exit code: 0 all calls were good, 1 one was not, 2 nothing was called.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = sys.argv[1]
AGENTS = {
    "openai": ["OPENAI_API_KEY"],
    "openai-live": ["OPENAI_API_KEY"],
    "azure-openai": ["AZURE_OPENAI_API_KEY", "ANTIPHON_AGENT__AZURE__URL"],
    "xai": ["XAI_API_KEY"],
    "elevenlabs": ["ELEVENLABS_API_KEY", "ELEVENLABS_AGENT_ID"],
    "deepgram": ["DEEPGRAM_API_KEY"],
    "gemini": ["GEMINI_API_KEY"],
}


def number(name, usual):
    try:
        return float(os.environ.get(name, usual))
    except ValueError:
        sys.exit(f"{name} must be a number, not {os.environ[name]!r}")


SECONDS, PRICE, CAP = number("LIVE_SECONDS", 20), number("LIVE_PRICE_PER_MINUTE", 1), number("LIVE_MAX_COST", 2)


def redacted(value, secrets):
    """Without keys, texts and addresses."""
    if isinstance(value, dict):
        hidden = {"session_id", "conversation_id", "metadata", "tenant"}
        return {name: redacted(inner, secrets) for name, inner in value.items() if name not in hidden}
    if isinstance(value, list):
        return [redacted(inner, secrets) for inner in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[secret]")
    return value


def wait_for(path, daemon):
    give_up = time.monotonic() + 15
    while not path.exists():
        if daemon.poll() is not None or time.monotonic() > give_up:
            return None
        time.sleep(0.05)
    return json.loads(path.read_text())


def call(name, secrets):
    text = (ROOT / "config" / "examples" / f"{name}.toml").read_text()
    text = text.replace('name = "all"', f'name = "all"\nmax_s = {max(1, round(SECONDS))}').replace('["clip"]', "[]")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config, ready, records = folder / "live.toml", folder / "ready.json", folder / "records.jsonl"
        config.write_text(text)
        listen = {f"ANTIPHON_LISTEN__{name}": "127.0.0.1:0" for name in ("HTTP", "CONTROL", "WEBRTC", "QUIC")}
        # What the environment says of other agents than those of this file is for their own calls.
        own = {f"ANTIPHON_AGENT__{agent.upper()}" for agent in re.findall(r"^\[agent\.(\w+)\]", text, re.M)}
        others = {key for key in os.environ if key.startswith("ANTIPHON_AGENT__") and key.rsplit("__", 1)[0] not in own}
        environment = {key: value for key, value in os.environ.items() if key not in others}
        environment.update(listen, ANTIPHON_LOG__CALL_RECORD=str(records))
        with open(folder / "log", "w+") as log:
            command = [BINARY, "run", "--config", str(config), "--ready-file", str(ready)]
            daemon = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log)
            try:
                bound = wait_for(ready, daemon)
                if bound is None:
                    log.seek(0)
                    return {"agent": name, "ok": False, "error": redacted(log.read()[-2000:], secrets)}
                made = subprocess.run(
                    [BINARY, "call", "--url", f"http://{bound['http']}", "--json", "--out", str(folder / "reply.wav")],
                    capture_output=True,
                    text=True,
                    timeout=SECONDS + 30,
                )
                outcome = json.loads(made.stdout or "{}")
            except subprocess.TimeoutExpired:
                outcome = {"ok": False, "error": "the call did not end"}
            finally:
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
        lines = records.read_text().splitlines() if records.exists() else []
    record = json.loads(lines[0]) if lines else None
    report = {"agent": name, "ok": bool(outcome.get("ok")), "call": outcome, "record": record}
    report["call"].pop("transcript", None)
    return redacted(report, secrets)


def main():
    wanted = os.environ.get("LIVE_AGENTS", " ".join(AGENTS)).split()
    unknown = [name for name in wanted if name not in AGENTS]
    if unknown:
        print(f"LIVE_AGENTS names {', '.join(unknown)}; there are {', '.join(AGENTS)}", file=sys.stderr)
        return 2
    able = [name for name in wanted if all(os.environ.get(variable) for variable in AGENTS[name])]
    if not able:
        print("No vendor is called: none of these agents has all its variables set.", file=sys.stderr)
        for name in wanted:
            print(f"  {name:<14} needs {', '.join(AGENTS[name])}", file=sys.stderr)
        print("They are your own keys, and the calls cost what your contracts say.", file=sys.stderr)
        return 2
    cost = len(able) * SECONDS / 60 * PRICE
    if cost > CAP:
        print(
            f"No vendor is called: {len(able)} calls of {SECONDS:g} s at {PRICE:g} a minute may cost {cost:.2f}, more than "
            f"LIVE_MAX_COST = {CAP:g}. Raise it, lower LIVE_SECONDS or name fewer agents in LIVE_AGENTS.",
            file=sys.stderr,
        )
        return 2
    variables = {variable for name in able for variable in AGENTS[name] if "URL" not in variable}
    secrets = sorted((os.environ[variable] for variable in variables), key=len, reverse=True)
    print(f"calling {', '.join(able)}: {SECONDS:g} s each, at most {cost:.2f} in all")
    with ThreadPoolExecutor(max(1, round(number("LIVE_PARALLEL", 1)))) as pool:
        reports = list(pool.map(lambda name: call(name, secrets), able))
    text = json.dumps({"day": time.strftime("%Y-%m-%d"), "calls": reports}, indent=2)
    target = ROOT / "target" / "live-report.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text + "\n")
    print(text)
    for report in reports:
        print(f"{report['agent']:<14} {'good' if report['ok'] else 'NOT GOOD'}")
    return 0 if all(report["ok"] for report in reports) else 1


sys.exit(main())
