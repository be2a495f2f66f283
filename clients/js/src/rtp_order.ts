/** The jitter buffer's first half: puts packets in order, and silence in the place of those that never come. */

import { extend, type RtpPacket } from './rtp.js';

/** A packet that is missing is waited for so long, from the first packet after it. */
const WAIT_MS = 40;
/** A gap without a marker that is longer than this is no loss but a jump. */
const JUMP_S = 1;
/** Packets that may wait. */
const KEPT = 16;

/** Orders one sender's packets of PCM16. */
export class RtpOrder {
  /** Samples of silence in place of packets that did not come. */
  concealed = 0;
  /** The position after the last sample that was delivered; `undefined` before the first. */
  private next: number | undefined;
  private last = 0;
  private validFrom = 0;
  private held: { pos: number; marker: boolean; samples: Int16Array }[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly rate: number,
    private readonly deliver: (samples: Int16Array<ArrayBuffer>, pos: number) => void,
  ) {}

  push(packet: RtpPacket): void {
    const pos = (this.last = extend(packet.timestamp, this.last));
    if (pos < this.validFrom || (this.next !== undefined && pos < this.next)) return;
    if (this.held.some((other) => other.pos === pos)) return;
    const samples = new Int16Array(packet.payload.slice().buffer, 0, packet.payload.length >> 1);
    this.held.push({ pos, marker: packet.marker, samples });
    this.held.sort((one, other) => one.pos - other.pos);
    this.drain(this.held.length > KEPT);
  }

  /** Audio before this position is void. */
  flush(validFrom: number): void {
    this.validFrom = extend(validFrom, this.last);
    this.held = this.held.filter(({ pos }) => pos >= this.validFrom);
    if (this.next !== undefined && this.next < this.validFrom) this.next = undefined;
    this.drain(false);
  }

  close(): void {
    clearTimeout(this.timer);
    this.held = [];
  }

  /** Delivers what follows; with `given up` also what stands behind a gap. */
  private drain(givenUp: boolean): void {
    for (let first = this.held[0]; first; first = this.held[0]) {
      const gap = this.next === undefined ? 0 : first.pos - this.next;
      // Behind a pause of the sender nothing is missing.
      const paused = first.marker || gap > JUMP_S * this.rate;
      if (gap > 0 && !paused) {
        if (!givenUp) break;
        this.concealed += gap;
        this.deliver(new Int16Array(gap), this.next!);
        givenUp = false;
      }
      this.held.shift();
      this.next = first.pos + first.samples.length;
      this.deliver(first.samples as Int16Array<ArrayBuffer>, first.pos);
    }
    clearTimeout(this.timer);
    if (this.held.length > 0) this.timer = setTimeout(() => this.drain(true), WAIT_MS);
  }
}
