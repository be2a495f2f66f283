/** The microphone's side: any rate in, frames of PCM16 at the link's rate out. */

import { Kernel, Ring } from './kernel.js';

/** Makes frames of `frameLength` samples at `linkRate` from blocks at `contextRate`. */
export class Recorder {
  private readonly kernel: Kernel;
  private readonly ring: Ring;
  private at = 0;
  private phase = 0;
  private frame: Int16Array;
  private filled = 0;

  constructor(
    contextRate: number,
    linkRate: number,
    private readonly frameLength: number,
    private readonly deliver: (frame: Int16Array) => void,
  ) {
    this.kernel = new Kernel(contextRate, linkRate);
    this.ring = new Ring(2 ** Math.ceil(Math.log2(this.kernel.half * 2 + 4096)));
    this.frame = new Int16Array(frameLength);
  }

  /** Takes up to 2048 samples, one per context frame. */
  push(block: Float32Array): void {
    const { kernel, ring } = this;
    ring.push(block);
    while (this.at + kernel.half < ring.end) {
      const sample = Math.round(kernel.apply(ring, this.at, this.phase) * 32767);
      this.frame[this.filled++] = Math.max(-32768, Math.min(32767, sample));
      this.phase += kernel.stride;
      this.at += Math.floor(this.phase / kernel.phases);
      this.phase %= kernel.phases;
      if (this.filled === this.frameLength) {
        this.deliver(this.frame);
        this.frame = new Int16Array(this.frameLength);
        this.filled = 0;
      }
    }
  }
}
