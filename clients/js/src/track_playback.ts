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
/**
 * A packet is stamped when it is decoded, and what was decoded before it is still to be played then: none mostly, up to
 * 30 ms where the jitter buffer catches up. The latest of the estimates of so long is the right one.
 */
const ESTIMATE_MS = 160;
/**
 * From the jitter buffer to the first node of the audio graph: buffers of 10 ms on both sides of a thread. In Chromium
 * 8 to 30 ms were found, which differ from call to call and cannot be asked for.
 */
const GRAPH_MS = 18;

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
  /** The sample at which it was muted: the last one that is heard. */
  private heardEnd: number | undefined;
  /** The first valid position after a flush, once its turn has been announced. */
  private resumeAt: number | undefined;
  /** When which position left the jitter buffer, as each packet of the last moments had it. */
  private seen: { pos: number; at: number }[] = [];
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
    this.mute();
    return this.heardEnd ?? flush.valid_from;
  }

  report(): Report | undefined {
    const pos = this.position(this.output.latency());
    return pos === undefined ? undefined : { pos, bufferedMs: 0 };
  }

  /** The sample that was rendered `before` seconds ago. */
  private position(before: number): number | undefined {
    this.observe();
    const last = this.seen.at(-1);
    if (!last) return undefined;
    const now = this.now();
    const late = this.seen.reduce((most, { pos, at }) => {
      const behind = (at - last.at) * (CLOCK / 1000) - since(pos, last.pos);
      return Math.max(most, behind);
    }, 0);
    const age = Math.min(now - last.at, SILENT_MS) - GRAPH_MS - before * 1000;
    return (last.pos + Math.round(age * (CLOCK / 1000) - late)) >>> 0;
  }

  /** Writes down the packet that was decoded last. */
  private observe(): void {
    const [source] = this.source.getSynchronizationSources();
    if (!source || source.timestamp === this.seen.at(-1)?.at) return;
    this.seen.push({ pos: source.rtpTimestamp, at: source.timestamp });
    this.seen = this.seen.filter(({ at }) => source.timestamp - at < ESTIMATE_MS);
  }

  close(): void {
    for (const timer of this.timers) clearInterval(timer);
  }

  private mute(): void {
    if (!this.muted) {
      this.mutedAt = this.now();
      // What was rendered will still be heard.
      this.heardEnd = this.position(0);
    }
    this.muted = true;
    this.resumeAt = undefined;
    this.output.setMuted(true);
  }

  private watch(): void {
    this.observe();
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
