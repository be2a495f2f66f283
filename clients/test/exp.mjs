import { chromium } from 'playwright-core';
import { startDaemon, startNetwork } from './daemon.mjs';
import { writeFileSync } from 'node:fs';
const daemon = await startDaemon('');
const WORKLET = `registerProcessor('tap', class extends AudioWorkletProcessor { process([i]) { const b=i[0]; this.port.postMessage({frame: currentFrame, s: b? b.slice():null}); return true; } });`;
const network = await startNetwork(daemon.http, { '/tap.js': WORKLET });
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--headless','--no-sandbox','--disable-gpu','--autoplay-policy=user-gesture-required','--use-fake-device-for-media-stream','--use-fake-ui-for-media-stream',`--use-file-for-fake-audio-capture=${process.argv[2]??'/dev/null'}%noloop`] });
const page = await (await browser.newContext()).newPage();
page.on('console', m => console.log('page:', m.text()));
await page.addInitScript(() => {
  const S = globalThis.S = { taps: [], datas: [], src: [], cuts: [], heard: [], mutes: [] };
  const RPC = RTCPeerConnection;
  const orig = RPC.prototype.addTransceiver;
  RPC.prototype.addTransceiver = function (...a) { const t = orig.apply(this, a); S.receiver = t.receiver; S.pc = this;
    this.addEventListener('track', ({ track }) => { 
      const p = new MediaStreamTrackProcessor({ track: track.clone() });
      (async () => { const r = p.readable.getReader(); for (;;) { const { value, done } = await r.read(); if (done) break; const f = new Float32Array(value.numberOfFrames); value.copyTo(f, { planeIndex: 0, format: 'f32-planar' }); S.datas.push({ ts: value.timestamp, n: value.numberOfFrames, rate: value.sampleRate, now: performance.now(), s: f }); value.close(); } })();
    });
    setInterval(() => { const [x] = this.getReceivers()[0]?.getSynchronizationSources() ?? []; if (x) { const l = S.src.at(-1); if (!l || l.timestamp !== x.timestamp) S.src.push({ now: performance.now(), origin: performance.timeOrigin, timestamp: x.timestamp, rtp: x.rtpTimestamp, ct: S.context?.currentTime, ol: S.context?.outputLatency, bl: S.context?.baseLatency }); } }, 2);
    return t; };
  const cs = RPC.prototype.createDataChannel;
  RPC.prototype.createDataChannel = function (...a) { const c = cs.apply(this, a); S.msgs = []; c.addEventListener('message', e => { const m = JSON.parse(e.data); if (['turn','flush','heard'].includes(m.type)) S.msgs.push({ now: performance.now(), ct: S.context?.currentTime, ...m }); }); const send = c.send.bind(c); c.send = t => { const m = JSON.parse(t); if (m.type==='playout'||m.type==='interrupt') S.msgs.push({ now: performance.now(), ct: S.context?.currentTime, out: true, ...m }); return send(t); }; return c; };
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (this instanceof MediaStreamAudioSourceNode && target instanceof GainNode) {
      S.context = this.context;
      void this.context.audioWorklet.addModule('/tap.js').then(() => { const n = new AudioWorkletNode(this.context, 'tap'); n.port.onmessage = ({ data }) => S.taps.push(data); connect.call(this, n); connect.call(n, this.context.destination); });
    }
    return connect.call(this, target, ...rest);
  };
});
await page.goto(`http://${network.address}/`);
await page.waitForTimeout(500);
await page.getByRole('combobox', { name: 'Transport' }).selectOption('webrtc');
await page.getByRole('button', { name: 'Talk', exact: true }).click();
await page.waitForTimeout(4000);
for (let i = 0; i < 3; i++) { await page.getByRole('button', { name: 'Interrupt', exact: true }).click(); await page.waitForTimeout(4000); }
const out = await page.evaluate(() => { const r = a => [...a].map(x => Math.round(x * 32768)); return JSON.stringify({ ...S, context: undefined, pc: undefined, receiver: undefined, rate: S.context.sampleRate, taps: S.taps.map(t => ({ frame: t.frame, s: t.s ? r(t.s) : null })), datas: S.datas.map(d => ({ ...d, s: r(d.s) })) }); });
writeFileSync(process.argv[3] ?? '/work/wt/page/target/exp/out.json', out);
await browser.close(); await network.stop(); await daemon.stop();
