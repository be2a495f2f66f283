"""Holds a call with the daemon by headless Chromium and prints what the page saw as one line of JSON.

Usage: chromium_call.py BASE AGENT SPEECH.wav SECONDS
"""
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

PAGE = """<!doctype html><title>call</title><script>
const [base, agent, seconds] = %s;
const pause = ms => new Promise(done => setTimeout(done, ms));
async function call() {
  const seen = { messages: [], states: [] };
  const media = await navigator.mediaDevices.getUserMedia({ audio: true });
  const pc = new RTCPeerConnection();
  const channel = pc.createDataChannel("antiphon.v1");
  channel.onmessage = event => seen.messages.push(JSON.parse(event.data));
  for (const track of media.getTracks()) pc.addTrack(track, media);
  const heard = [];
  pc.ontrack = event => {
    const audio = new Audio();
    audio.srcObject = new MediaStream([event.track]);
    audio.muted = true;
    audio.play();
    const context = new AudioContext(), meter = context.createAnalyser();
    context.createMediaStreamSource(audio.srcObject).connect(meter);
    const block = new Float32Array(meter.fftSize);
    setInterval(() => {
      meter.getFloatTimeDomainData(block);
      heard.push(Math.sqrt(block.reduce((sum, x) => sum + x * x, 0) / block.length));
    }, 50);
  };
  const connected = new Promise(done => {
    pc.onconnectionstatechange = () => {
      seen.states.push(pc.connectionState);
      if (pc.connectionState === "connected") done(performance.now());
    };
  });
  await pc.setLocalDescription();
  const begun = performance.now();
  const answer = await fetch(base + "/v1/session/webrtc", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ sdp: pc.localDescription.sdp, start: { agent } }),
  });
  seen.status = answer.status;
  seen.location = answer.headers.get("location");
  const told = await answer.json();
  seen.started = told.started;
  seen.candidates_offered = (pc.localDescription.sdp.match(/a=candidate/g) || []).length;
  await pc.setRemoteDescription({ type: "answer", sdp: told.sdp });
  seen.setup_ms = await connected - begun;
  while (channel.readyState !== "open") await pause(5);
  channel.send(JSON.stringify({ type: "ping", t: 1 }));
  await pause(seconds * 1000);
  for (const entry of (await pc.getStats()).values()) {
    if (entry.type === "inbound-rtp") seen.inbound = [entry.packetsReceived, entry.packetsLost];
    if (entry.type === "outbound-rtp") seen.outbound = entry.packetsSent;
    if (entry.type === "remote-inbound-rtp") seen.round_trip_ms = entry.roundTripTime * 1000;
    if (entry.type === "transport") seen.srtp = entry.srtpCipher;
  }
  channel.send(JSON.stringify({ type: "end" }));
  await pause(500);
  seen.state_at_end = pc.connectionState;
  seen.loud_ms = heard.filter(level => level > 0.01).length * 50;
  return seen;
}
call().catch(error => ({ error: String(error) }))
  .then(seen => fetch("/seen", { method: "POST", body: JSON.stringify(seen) }));
</script>"""


def main(base, agent, speech, seconds):
    done, seen = threading.Event(), {}
    page = (PAGE % json.dumps([base, agent, float(seconds)])).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page)

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
         "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
         f"--use-file-for-fake-audio-capture={os.path.abspath(speech)}",
         "--autoplay-policy=no-user-gesture-required", f"http://127.0.0.1:{server.server_port}/"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    done.wait(40)
    process.terminate()
    process.wait()
    shutil.rmtree(profile, ignore_errors=True)
    print(json.dumps(seen))


main(*sys.argv[1:])
