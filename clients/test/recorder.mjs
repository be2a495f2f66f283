// Records what a page sends to its loudspeaker, without the page's help: whatever is connected to a context's
// destination is connected to a recorder too.

/** Of the audio thread: the energy of each 20 ms, and the last frame that was not silent. */
const WORKLET = `
registerProcessor('test-recorder', class extends AudioWorkletProcessor {
  constructor() { super(); this.sum = 0; this.count = 0; this.loud = 0; }
  process([input]) {
    const block = input[0];
    for (let i = 0; i < 128; i++) {
      const x = block ? block[i] : 0;
      this.sum += x * x;
      if (Math.abs(x) > 1e-4) this.loud = currentFrame + i;
      if (++this.count === Math.round(sampleRate / 50)) {
        this.port.postMessage({ frame: currentFrame + i, rms: Math.sqrt(this.sum / this.count), loud: this.loud });
        this.sum = this.count = 0;
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
        recorder.port.onmessage = ({ data }) => state.frames.push(data);
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

export const install = (page) => page.addInitScript(inPage);

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
    // How long the answer sounded: from the end of the silence before it.
    const { frames } = recorded;
    const last = frames.findLastIndex(({ rms }) => rms > 0);
    const before = frames.findLastIndex(({ rms }, i) => rms === 0 && i < last);
    const sounded = (frames[last].loud - frames[before].frame) / recorded.context.sampleRate;
    return { rendered, audible, sounded: sounded * 1000 };
  });
}
