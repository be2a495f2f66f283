"""Holds a call with the daemon by headless Chromium and prints what the page saw as one line of JSON.

Usage: chromium_call.py BASE AGENT SPEECH.wav SECONDS [LOST_OF_100]

With a share of packets to lose, the page offers NACK for its audio, as the client library does, and its datagrams go
through a relay that loses so many of the browser's packets, each the first time that it comes.
"""
import http.server
import json
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

PAGE = """<!doctype html><title>call</title><script>
const [base, agent, seconds, lossy] = %s;
// As the client library does.
const withNack = sdp => sdp.replace(/^(a=rtpmap:(\\d+) opus\\/48000.*)$/im, "$1\\r\\na=rtcp-fb:$2 nack");
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
  const offer = await pc.createOffer();
  await pc.setLocalDescription({ type: "offer", sdp: lossy ? withNack(offer.sdp) : offer.sdp });
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
  seen.answer = told.sdp;
  let sdp = told.sdp;
  if (lossy) {
    const port = Number(sdp.match(/a=candidate:\\S+ \\d+ udp \\d+ \\S+ (\\d+)/i)[1]);
    const relay = await (await fetch("/relay?" + port)).text();
    sdp = sdp.replace(/^(a=candidate:\\S+ \\d+ udp \\d+ \\S+ )\\d+/im, "$1" + relay);
  }
  await pc.setRemoteDescription({ type: "answer", sdp });
  seen.setup_ms = await connected - begun;
  while (channel.readyState !== "open") await pause(5);
  channel.send(JSON.stringify({ type: "ping", t: 1 }));
  await pause(seconds * 1000);
  for (const entry of (await pc.getStats()).values()) {
    if (entry.type === "inbound-rtp") seen.inbound = [entry.packetsReceived, entry.packetsLost];
    if (entry.type === "outbound-rtp") {
      seen.outbound = entry.packetsSent;
      seen.nacks = entry.nackCount;
      seen.retransmitted = entry.retransmittedPacketsSent;
    }
    if (entry.type === "remote-inbound-rtp") seen.round_trip_ms = entry.roundTripTime * 1000;
    if (entry.type === "transport") seen.srtp = entry.srtpCipher;
  }
  channel.send(JSON.stringify({ type: "stats" }));
  await pause(300);
  channel.send(JSON.stringify({ type: "end" }));
  await pause(500);
  seen.state_at_end = pc.connectionState;
  seen.loud_ms = heard.filter(level => level > 0.01).length * 50;
  return seen;
}
call().catch(error => ({ error: String(error) }))
  .then(seen => fetch("/seen", { method: "POST", body: JSON.stringify(seen) }));
</script>"""


class Relay:
    """Between the browser and the daemon; loses packets of audio on their way there."""

    def __init__(self, to, lost_of_100):
        self.to, self.lost_of_100, self.chance = to, lost_of_100, random.Random(7)
        self.front, self.back, self.browser = self.socket(), self.socket(), None
        self.port, self.known, self.lost, self.again = self.front.getsockname()[1], set(), set(), set()
        threading.Thread(target=self.run, daemon=True).start()

    @staticmethod
    def socket():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        return made

    def loses(self, packet):
        # RTP, but not RTCP (RFC 5761 section 4).
        if not (128 <= packet[0] < 192) or 64 <= packet[1] & 127 < 96:
            return False
        seq = int.from_bytes(packet[2:4], "big")
        if seq in self.known:
            self.again.add(seq)
            return False
        self.known.add(seq)
        lost = self.chance.random() * 100 < self.lost_of_100
        if lost:
            self.lost.add(seq)
        return lost

    def run(self):
        while True:
            for ready in select.select([self.front, self.back], [], [])[0]:
                packet, source = ready.recvfrom(65536)
                if ready is self.back:
                    if self.browser:
                        self.front.sendto(packet, self.browser)
                    continue
                self.browser = source
                if packet and not self.loses(packet):
                    self.back.sendto(packet, self.to)


def main(base, agent, speech, seconds, lost_of_100=0):
    done, seen, relays = threading.Event(), {}, []
    lost_of_100 = float(lost_of_100)
    page = (PAGE % json.dumps([base, agent, float(seconds), lost_of_100 > 0])).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if asked := re.match(r"/relay\?(\d+)", self.path):
                relays.append(Relay(("127.0.0.1", int(asked[1])), lost_of_100))
                return self.answer(str(relays[-1].port).encode())
            self.answer(page)

        def answer(self, page):
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
    for relay in relays:
        seen["relay"] = {"lost": len(relay.lost), "came_again": len(relay.lost & relay.again)}
    print(json.dumps(seen))


main(*sys.argv[1:])
