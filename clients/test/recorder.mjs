// Records what a page sends to its loudspeaker, without the page's help: whatever is connected to a context's
// destination is connected to a recorder too.

/** Of the audio thread: every 20 ms with its energy, and the last frame that was not silent. */
const WORKLET = `
registerProcessor('test-recorder', class extends AudioWorkletProcessor {
  constructor() { super(); this.loud = 0; this.renew(); }
  renew() { this.samples = new Float32Array(Math.round(sampleRate / 50)); this.count = 0; }
  process([input]) {
    const block = input[0];
    for (let i = 0; i < 128; i++) {
      const x = block ? block[i] : 0;
      this.samples[this.count++] = x;
      if (Math.abs(x) > 1e-4) this.loud = currentFrame + i;
      if (this.count === this.samples.length) {
        const rms = Math.sqrt(this.samples.reduce((sum, x) => sum + x * x, 0) / this.count);
        this.port.postMessage({ frame: currentFrame + i, rms, loud: this.loud, samples: this.samples });
        this.renew();
      }
    }
    return true;
  }
});`;

function inPage() {
  const state = (globalThis.recorded = { context: undefined, frames: [], clicks: [] });
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode && !this.isRecorder) {
      const { context } = this;
      state.context = context;
      void context.audioWorklet.addModule('/test-recorder.js').then(() => {
        const recorder = new AudioWorkletNode(context, 'test-recorder', { numberOfOutputs: 1 });
        recorder.isRecorder = true;
        recorder.port.onmessage = ({ data }) => {
          state.frames.push(data);
          // Half a minute of samples is enough.
          if (state.frames.length > 1500) state.frames.at(-1500).samples = undefined;
        };
        connect.call(this, recorder);
        recorder.connect(target);
      });
    }
    return connect.call(this, target, ...rest);
  };
  document.addEventListener(
    'click',
    (event) => {
      if (event.target.id !== 'interrupt' || !state.context) return;
      const { currentTime } = state.context;
      state.clicks.push({ at: event.timeStamp, handled: performance.now(), currentTime, stamp: state.context.getOutputTimestamp() });
    },
    true,
  );
}

/** To be served beside the page: its policy allows scripts of its own origin only. */
export const files = { '/test-recorder.js': WORKLET };

/** Before the page's own scripts; of Playwright and Puppeteer. */
export const install = (page) => (page.addInitScript ?? page.evaluateOnNewDocument).call(page, inPage);

/** The energy of each 20 ms since the call began. */
export const envelope = (page) => page.evaluate(() => recorded.frames.map(({ rms }) => rms));

/** Milliseconds from the last click on Interrupt to the last sample that was not silent: as rendered, and at the ear. */
export function silenceAfterClick(page) {
  return page.evaluate(() => {
    const click = recorded.clicks.at(-1);
    const loud = recorded.frames.at(-1).loud / recorded.context.sampleRate;
    const waited = click.handled - click.at;
    const rendered = (loud - click.currentTime) * 1000 + waited;
    const { contextTime, performanceTime } = click.stamp;
    const audible = performanceTime + (loud - contextTime) * 1000 - click.at;
    return { rendered, audible };
  });
}

/**
 * Which place of a recording (a file with lossless positions, such as Ogg Opus) sounded last, up to a number of 20 ms
 * frames if one is given, or first since then: `WINDOW_MS` of sound are looked for in it. Milliseconds, how long it is quiet
 * there (a stop in a pause between words is anywhere in it), and how alike the two are (1 is the same).
 */
export const lastHeard = (page, url, frames) => placeOf(page, url, 0, frames);
export const firstHeard = (page, url, frames) => placeOf(page, url, frames);

function placeOf(page, url, since, until) {
  return page.evaluate(async ([url, since, until]) => {
    const WINDOW_MS = 160;
    const rate = recorded.context.sampleRate;
    const file = await (await fetch(url)).arrayBuffer();
    const whole = (await new OfflineAudioContext(1, 1, rate).decodeAudioData(file)).getChannelData(0);
    const frames = recorded.frames.slice(since, until).filter(({ samples }) => samples);
    const heard = new Float32Array(frames.length * frames[0].samples.length);
    frames.forEach(({ samples }, i) => heard.set(samples, i * samples.length));
    const length = Math.round((rate * WINDOW_MS) / 1000);
    const end = heard.length - (frames.at(-1).frame - frames.at(-1).loud);
    // A decoder that begins in the middle of a word takes some frames to find its way.
    const skipped = since === 0 ? 0 : Math.round(rate * 0.08);
    const begin = since === 0 ? end - length : heard.findIndex((x) => Math.abs(x) > 1e-3) + skipped;
    const wanted = heard.subarray(begin, begin + length);
    const energy = (samples) => samples.reduce((sum, x) => sum + x * x, 0);
    let [best, at, around] = [0, -1, energy(whole.subarray(0, length))];
    const size = energy(wanted);
    for (let i = 0; i + length <= whole.length; i++) {
      // A coarse look first: one sample in four.
      let product = 0;
      for (let k = 0; k < length; k += 4) product += whole[i + k] * wanted[k];
      const alike = (4 * product) / Math.sqrt(Math.max(around, size / 20) * size);
      if (alike > best) [best, at] = [alike, i];
      around += whole[i + length] ** 2 - whole[i] ** 2;
    }
    const place = since === 0 ? at + length : at - skipped;
    const quiet = Math.max(0, whole.subarray(Math.max(0, place)).findIndex((x) => Math.abs(x) > 1e-3));
    return { ms: (place * 1000) / rate, quietMs: (quiet * 1000) / rate, alike: best };
  }, [url, since, until]);
}
