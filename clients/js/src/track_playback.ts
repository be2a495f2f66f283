/** Playback of a remote track (RTP carriage): positions are RTP timestamps. */

import type { Playback, Report } from './carrier.js';
import type { Flush, Turn } from './messages.js';

/** RTP clock of Opus (RFC 7587 section 4.1). */
const CLOCK = 48_000;
const REPORT_MS = 100;
/** How often it is looked whether the new answer has come out of the jitter buffer. */
const WATCH_MS = 10;
/** A flush is taken back after so long in any case: silence for ever would be worse than a leftover. */
const MUTED_MAX_MS = 1000;
/** A source that was not heard of for so long is silent. */
const SILENT_MS = 200;

/** The part of `RTCRtpReceiver` that is used. */
export interface Source {
  getSynchronizationSources(): { timestamp: number; rtpTimestamp: number }[];
}

/** The part of the audio output that is used. */
export interface Mute {
  setMuted(muted: boolean): void;
  /** From the end of the jitter buffer to the ear, in seconds. */
  latency(): number;
}

/** `a - b` of 32-bit timestamps that wrap around. */
export function since(a: number, b: number): number {
  return (a - b) | 0;
}

/** Mutes at a flush, and unmutes when the next answer comes out. */
export class TrackPlayback implements Playback {
  readonly starved = 0;
  private muted = false;
  private mutedAt = 0;
  /** The first valid position after a flush, once its turn has been announced. */
  private resumeAt: number | undefined;
  private readonly timers: ReturnType<typeof setInterval>[] = [];

  constructor(
    private readonly source: Source,
    private readonly output: Mute,
    private readonly onReport: (report: Report) => void,
    private readonly now: () => number = () => performance.timeOrigin + performance.now(),
  ) {
    this.timers.push(setInterval(() => this.tick(), REPORT_MS), setInterval(() => this.watch(), WATCH_MS));
  }

  onTurn(turn: Turn): void {
    if (turn.phase === 'start' && this.muted) this.resumeAt = turn.pos;
  }

  stop(): Report | undefined {
    const report = this.report();
    this.mute();
    return report;
  }

  async flush(flush: Flush): Promise<number> {
    const report = this.report();
    this.mute();
    return report?.pos ?? flush.valid_from;
  }

  report(): Report | undefined {
    const [source] = this.source.getSynchronizationSources();
    if (!source) return undefined;
    const age = Math.min(this.now() - source.timestamp, SILENT_MS) / 1000 - this.output.latency();
    return { pos: (source.rtpTimestamp + Math.round(age * CLOCK)) >>> 0, bufferedMs: 0 };
  }

  close(): void {
    for (const timer of this.timers) clearInterval(timer);
  }

  private mute(): void {
    if (!this.muted) this.mutedAt = this.now();
    this.muted = true;
    this.resumeAt = undefined;
    this.output.setMuted(true);
  }

  private watch(): void {
    if (!this.muted) return;
    const [source] = this.source.getSynchronizationSources();
    const valid = source && this.resumeAt !== undefined && since(source.rtpTimestamp, this.resumeAt) >= 0;
    const late = this.resumeAt !== undefined && this.now() - this.mutedAt > MUTED_MAX_MS;
    if (!valid && !late) return;
    this.muted = false;
    this.resumeAt = undefined;
    this.output.setMuted(false);
  }

  private tick(): void {
    const [source] = this.source.getSynchronizationSources();
    if (!source || this.muted || this.now() - source.timestamp > SILENT_MS) return;
    const report = this.report();
    if (report) this.onReport(report);
  }
}
