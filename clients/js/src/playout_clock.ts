/** From what the player rendered to what leaves the speaker: the audio context renders ahead of the ear. */

import type { PlayerEvent } from './worklet/player.js';

interface Run {
  /** Context frame and link position at which it begins. */
  frame: number;
  pos: number;
  /** Position at which it ended; open while it plays. */
  end: number;
}

/** Runs that are remembered: the ear is less than a second behind, and runs are longer than that together. */
const KEPT = 16;

/** Follows the player's events and tells the position at any context time. */
export class PlayoutClock {
  private runs: Run[] = [];

  constructor(
    private readonly linkRate: number,
    private readonly contextRate: number,
  ) {}

  on(event: PlayerEvent): void {
    if (event.type === 'begin') {
      this.runs.push({ frame: event.frame, pos: event.pos, end: Infinity });
      if (this.runs.length > KEPT) this.runs.shift();
    } else if (event.type === 'stop') {
      const last = this.runs.at(-1);
      if (last && last.end === Infinity) last.end = event.pos;
    }
  }

  /** The position of the sample at context time `seconds`; `undefined` before the first sound. */
  positionAt(seconds: number): number | undefined {
    const frame = seconds * this.contextRate;
    let run = this.runs.findLast((candidate) => candidate.frame <= frame);
    if (!run) {
      // Rendered, and not out yet: nothing of the first run has left the speaker.
      run = this.runs[0];
      return run?.pos;
    }
    const played = Math.round(((frame - run.frame) * this.linkRate) / this.contextRate);
    return Math.min(run.end, run.pos + played);
  }
}

/** What an audio context tells about its output. */
export interface OutputClock {
  readonly currentTime: number;
  readonly baseLatency?: number;
  readonly outputLatency?: number;
  getOutputTimestamp?(): { contextTime?: number; performanceTime?: number };
}

/** Context time of what leaves the speaker at `now` (of `performance.now()`), in seconds. */
export function audibleTime(clock: OutputClock, now: number): number {
  const stamp = clock.getOutputTimestamp?.();
  if (stamp?.contextTime && stamp.performanceTime) {
    const time = stamp.contextTime + (now - stamp.performanceTime) / 1000;
    // A stamp from before a pause of the context says nothing.
    if (time <= clock.currentTime && time > clock.currentTime - 1) return time;
  }
  return Math.max(0, clock.currentTime - (clock.outputLatency ?? 0) - (clock.baseLatency ?? 0));
}
