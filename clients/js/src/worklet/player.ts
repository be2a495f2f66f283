/** The player: keeps what came, renders it, and knows the position of every sample that it rendered. */

import { Kernel, Ring } from './kernel.js';

/** What the player tells. `frame` counts frames of the audio context; `pos` counts samples of the link. */
export type PlayerEvent =
  /** Playing (again): the sample `pos` is rendered at `frame`. */
  | { type: 'begin'; frame: number; pos: number }
  /** Still playing. */
  | { type: 'progress'; frame: number; pos: number; buffered: number }
  /** Silence from `frame` on; everything before `pos` was rendered. */
  | { type: 'stop'; frame: number; pos: number; cause: 'dry' | 'flush'; starved: boolean };

/** What the player is told. */
export type PlayerCommand =
  /** Samples of the link from position `pos` on. */
  | { type: 'audio'; pos: number; samples: Int16Array }
  /** The answer is complete: play what is there, and do not count it as starving. */
  | { type: 'end' }
  /** Silence, now. */
  | { type: 'flush' };

/** Longest time that is kept; the relay is never so far ahead. */
const KEPT_S = 10;
/** Between two progress events. */
const PROGRESS_S = 0.1;
/** Longest silence between two packets that is played as it is. */
const PAUSE_S = KEPT_S;
/** Frames over which a flush fades out and the next sound fades in, so that neither clicks: 2.7 ms at 48 kHz. */
const FADE = 128;
/** Audio that is waited for before playing begins, and its bound when the link proves to be uneven. */
const CUSHION_S = 0.02;
const CUSHION_MAX_S = 0.16;

/** Plays one link's audio. */
export class Player {
  /** Samples that had to be thrown away because too many came. */
  overflowed = 0;
  private readonly kernel: Kernel;
  private readonly ring: Ring;
  private head = 0;
  /** The position after the last sample that was rendered. */
  private rendered = 0;
  private phase = 0;
  private state: 'silent' | 'playing' | 'fading' = 'silent';
  private gain = 1;
  /** Context frame at which the oldest waiting sample came. */
  private waitingSince = -1;
  private cushion: number;
  private ended = false;
  private starved = false;
  private told = 0;
  /** What came while a flush fades out; it is a hundred frames at most until then. */
  private pending: PlayerCommand[] = [];

  constructor(
    private readonly linkRate: number,
    private readonly contextRate: number,
    private readonly tell: (event: PlayerEvent) => void,
  ) {
    this.kernel = new Kernel(linkRate, contextRate);
    this.ring = new Ring(2 ** Math.ceil(Math.log2(KEPT_S * linkRate)));
    this.cushion = CUSHION_S * linkRate;
  }

  /** Samples that came and were not rendered. */
  get buffered(): number {
    return Math.max(0, this.ring.end - this.head);
  }

  handle(command: PlayerCommand, frame: number): void {
    if (this.state === 'fading') {
      if (command.type !== 'flush') this.pending.push(command);
      return;
    }
    switch (command.type) {
      case 'audio':
        return this.push(command.pos, command.samples, frame);
      case 'end':
        this.ended = true;
        if (!this.starved) this.cushion = Math.max(CUSHION_S * this.linkRate, this.cushion / 2);
        this.starved = false;
        return;
      case 'flush':
        return this.flush(frame);
    }
  }

  private push(pos: number, samples: Int16Array, frame: number): void {
    if (this.buffered === 0 && this.state === 'silent') {
      if (this.starved && !this.ended) {
        this.cushion = Math.min(CUSHION_MAX_S * this.linkRate, this.cushion * 2);
      }
      if (pos !== this.ring.end) this.ring.restart(pos);
      this.head = pos;
      this.phase = 0;
      this.waitingSince = frame;
    }
    const gap = pos - this.ring.end;
    if (gap < 0 || gap > PAUSE_S * this.linkRate) return this.restart(pos, samples, frame);
    const room = this.ring.capacity - this.kernel.half - this.buffered;
    if (gap + samples.length > room) {
      this.overflowed += samples.length;
      return;
    }
    // A pause of the sender, who counts on, while its last words are still played here.
    if (gap > 0) this.ring.push(new Float32Array(gap));
    this.ended = false;
    this.ring.push(samples, 1 / 32768);
  }

  /** A jump: what is left of the old place gives way. */
  private restart(pos: number, samples: Int16Array, frame: number): void {
    this.stop(frame, 'dry');
    this.head = this.ring.end;
    this.push(pos, samples, frame);
  }

  private flush(frame: number): void {
    this.starved = false;
    if (this.state === 'playing') {
      this.state = 'fading';
      return;
    }
    this.stop(frame, 'flush');
  }

  private stop(frame: number, cause: 'dry' | 'flush'): void {
    this.state = 'silent';
    if (cause === 'flush') {
      this.ring.restart(this.ring.end);
      this.head = this.ring.end;
      this.phase = 0;
      this.gain = 0;
    }
    this.starved = cause === 'dry' && !this.ended;
    this.tell({ type: 'stop', frame, pos: this.rendered, cause, starved: this.starved });
    for (const command of this.pending.splice(0)) this.handle(command, frame);
  }

  private mayBegin(frame: number): boolean {
    const { buffered } = this;
    if (buffered === 0) return false;
    const waited = ((frame - this.waitingSince) * this.linkRate) / this.contextRate;
    return this.ended || buffered >= this.cushion || waited >= this.cushion;
  }

  /** Renders the frames from context frame `frame` on. */
  render(out: Float32Array, frame: number): void {
    out.fill(0);
    if (this.state === 'silent') {
      if (!this.mayBegin(frame)) return;
      this.state = 'playing';
      this.told = frame;
      this.tell({ type: 'begin', frame, pos: this.head });
    }
    const { kernel, ring } = this;
    const step = 1 / FADE;
    for (let i = 0; i < out.length; i++) {
      if (this.head >= ring.end) return this.stop(frame + i, this.state === 'fading' ? 'flush' : 'dry');
      if (this.state === 'fading') {
        this.gain -= step;
        if (this.gain <= 0) return this.stop(frame + i, 'flush');
      } else if (this.gain < 1) {
        this.gain = Math.min(1, this.gain + step);
      }
      out[i] = kernel.apply(ring, this.head, this.phase) * this.gain;
      this.phase += kernel.stride;
      this.head += Math.floor(this.phase / kernel.phases);
      this.phase %= kernel.phases;
      this.rendered = Math.min(this.head, ring.end);
    }
    const end = frame + out.length;
    if (end - this.told >= PROGRESS_S * this.contextRate) {
      this.told = end;
      this.tell({ type: 'progress', frame: end, pos: this.head, buffered: this.buffered });
    }
  }
}
