"""Holds a call over WebTransport by headless Chromium, without the client library, and prints what the page saw as one line
of JSON.

Usage: chromium_call.py URL SHA256 AGENT SPEECH SECONDS
"""
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from array import array

import av

PAGE = """<!doctype html><title>call</title><script>
const [url, hash, agent, seconds] = %s;
const FLOW = 300, PCM16 = 96, FRAME = 320;
const int = n => n < 64 ? [n] : n < 16384 ? [64 | n >> 8, n & 255] : [128 | n >> 24, n >> 16 & 255, n >> 8 & 255, n & 255];
const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
async function call() {
  const spoken = new Uint8Array(await (await fetch("/speech")).arrayBuffer());
  const pin = Uint8Array.from(hash.match(/../g), byte => parseInt(byte, 16));
  const begun = performance.now();
  const relay = new WebTransport(url, { serverCertificateHashes: [{ algorithm: "sha-256", value: pin }] });
  await relay.ready;
  const seen = { setup_ms: performance.now() - begun, messages: [], packets: 0, loud: 0, wrong: 0, room: relay.datagrams.maxDatagramSize };
  const control = await relay.createBidirectionalStream(), writer = control.writable.getWriter();
  const text = message => new TextEncoder().encode(JSON.stringify(message));
  const say = message => { const json = text(message); return writer.write(Uint8Array.from([...int(json.length), ...json])); };
  await writer.write(Uint8Array.from([0, ...int(FLOW)]));
  const pcm = { codec: "pcm16", rate: 16000 };
  await say({ type: "start", agent, audio: { in: pcm, out: pcm, flow: FLOW } });
  const ended = (async () => {
    let unread = [];
    for await (const chunk of control.readable) {
      unread.push(...chunk);
      while (unread.length) {
        const size = 1 << (unread[0] >> 6);
        if (unread.length < size) break;
        const length = unread.slice(1, size).reduce((n, byte) => n * 256 + byte, unread[0] & 63);
        if (unread.length < size + length) break;
        seen.messages.push(JSON.parse(new TextDecoder().decode(Uint8Array.from(unread.slice(size, size + length)))));
        unread = unread.slice(size + length);
      }
    }
  })();
  const stopped = writer.closed.then(() => null, error => error.streamErrorCode);
  const said = [];
  let next = 0;
  (async () => {
    for await (const datagram of relay.datagrams.readable) {
      const packet = datagram.subarray(int(FLOW).length);
      const payload = packet.subarray(12);
      seen.packets += 1;
      if (packet[0] !== 128 || (packet[1] & 127) !== PCM16) seen.wrong += 1;
      if (payload.every(byte => byte === 0)) continue;
      seen.loud += 1;
      while (next < said.length && !same(said[next], payload)) next += 1;
      if (next === said.length) seen.wrong += 1;
    }
  })().catch(() => {});
  const out = (relay.datagrams.createWritable ? relay.datagrams.createWritable() : relay.datagrams.writable).getWriter();
  const first = performance.now();
  for (let number = 0; number < seconds * 50; number += 1) {
    const wait = first + number * 20 - performance.now();
    if (wait > 0) await new Promise(done => setTimeout(done, wait));
    const payload = spoken.subarray(number * 2 * FRAME, (number + 1) * 2 * FRAME);
    if (payload.length < 2 * FRAME) break;
    said.push(payload);
    const head = new DataView(new ArrayBuffer(12));
    head.setUint8(0, 128), head.setUint8(1, PCM16 | (number ? 0 : 128)), head.setUint16(2, number);
    head.setUint32(4, number * FRAME), head.setUint32(8, 5);
    out.write(Uint8Array.from([...int(FLOW), ...new Uint8Array(head.buffer), ...payload]));
  }
  await new Promise(done => setTimeout(done, 1300));
  await say({ type: "end" });
  await ended;
  seen.stopped = await stopped;
  relay.close({ closeCode: 1000, reason: "" });
  return seen;
}
call().catch(error => ({ error: String(error) }))
  .then(seen => fetch("/seen", { method: "POST", body: JSON.stringify(seen) }));
</script>"""


def load(path):
    out, mono = array("h"), av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(path) as file:
        for frame in file.decode(audio=0):
            for piece in mono.resample(frame):
                out.frombytes(bytes(piece.planes[0])[: 2 * piece.samples])
    return out.tobytes()


def main(url, pin, agent, speech, seconds):
    done, seen, spoken = threading.Event(), {}, load(speech)
    page = (PAGE % json.dumps([url, pin, agent, float(seconds)])).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html" if self.path == "/" else "application/octet-stream")
            self.end_headers()
            self.wfile.write(page if self.path == "/" else spoken)

        def do_POST(self):
            seen.update(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    profile = tempfile.mkdtemp()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    process = subprocess.Popen(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
         f"http://127.0.0.1:{server.server_port}/"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    done.wait(40)
    process.terminate()
    process.wait()
    shutil.rmtree(profile, ignore_errors=True)
    print(json.dumps(seen))


main(*sys.argv[1:])
