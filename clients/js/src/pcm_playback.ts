/** Playback of PCM16 frames through the worklet, with positions of samples received (ordered carriage). */

import type { Playback, Report } from './carrier.js';
import type { Flush, Turn } from './messages.js';
import { PlayoutClock, audibleTime, type OutputClock } from './playout_clock.js';
import type { PlayerCommand, PlayerEvent } from './worklet/player.js';

/** How long audio is thrown away after a local stop when the relay does not answer with a flush. */
const STOP_MS = 1000;

/** The node of the player: messages in and out. */
export interface PlayerPort {
  postMessage(command: PlayerCommand, transfer?: Transferable[]): void;
  onmessage: ((event: MessageEvent<PlayerEvent>) => void) | null;
}

export interface PcmPlaybackEvents {
  onReport(report: Report): void;
  onAudio(samples: Int16Array, pos: number): void;
}

/** Counts what came, and reports what leaves the speaker. */
export class PcmPlayback implements Playback {
  starved = 0;
  private received = 0;
  private discardUntil = 0;
  private playing = false;
  private waiting: ((pos: number) => void)[] = [];
  /** The last sample that was heard when sound stopped last. */
  private heardEnd = 0;
  /** Everything before it was played or is void. */
  private settled = 0;
  private readonly clock: PlayoutClock;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly port: PlayerPort,
    private readonly output: OutputClock & { readonly sampleRate: number },
    private readonly rate: number,
    private readonly events: PcmPlaybackEvents,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.clock = new PlayoutClock(rate, output.sampleRate);
    port.onmessage = ({ data }) => this.onPlayer(data);
  }

  /** One binary frame of the link: little-endian samples. */
  onFrame(frame: ArrayBuffer): void {
    this.onSamples(new Int16Array(frame, 0, frame.byteLength >> 1), this.received);
  }

  /** Samples that stand at a position, in order. */
  protected onSamples(samples: Int16Array<ArrayBuffer>, pos: number): void {
    this.received = pos + samples.length;
    if (this.discardUntil > this.now()) return;
    this.discardUntil = 0;
    this.events.onAudio(samples, pos);
    this.port.postMessage({ type: 'audio', pos, samples }, [samples.buffer]);
  }

  onTurn(turn: Turn): void {
    if (turn.phase === 'end') this.port.postMessage({ type: 'end' });
  }

  stop(): Report | undefined {
    const report = this.report();
    // With nothing to stop, what comes next is a new answer.
    if (this.playing || this.settled < this.received) this.discardUntil = this.now() + STOP_MS;
    this.port.postMessage({ type: 'flush' });
    return report;
  }

  flush(_flush: Flush): Promise<number> {
    // Everything that came before this message is void; nothing after it is.
    this.discardUntil = 0;
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.port.postMessage({ type: 'flush' });
    });
  }

  report(): Report | undefined {
    const pos = this.clock.positionAt(audibleTime(this.output, this.now()));
    if (pos === undefined) return undefined;
    return { pos, bufferedMs: Math.max(0, Math.round(((this.received - pos) * 1000) / this.rate)) };
  }

  close(): void {
    clearTimeout(this.timer);
    this.port.onmessage = null;
    for (const resolve of this.waiting.splice(0)) resolve(this.heardEnd);
  }

  private onPlayer(event: PlayerEvent): void {
    this.clock.on(event);
    switch (event.type) {
      case 'begin':
        this.playing = true;
        clearTimeout(this.timer);
        return;
      case 'progress':
        return this.tell();
      case 'stop':
        this.heardEnd = event.pos;
        this.settled = event.cause === 'flush' ? this.received : event.pos;
        if (event.starved) this.starved += 1;
        if (event.cause === 'flush') {
          // What was rendered will still be heard, so that its end is the last sample heard.
          for (const resolve of this.waiting.splice(0)) resolve(event.pos);
        } else if (this.playing) {
          this.onDry(event.frame);
        }
        this.playing = false;
    }
  }

  /** The last report comes when the last sample has left the speaker. */
  private onDry(frame: number): void {
    const silentAt = frame / this.output.sampleRate;
    const wait = (silentAt - audibleTime(this.output, this.now())) * 1000;
    this.tell();
    clearTimeout(this.timer);
    if (wait > 1) this.timer = setTimeout(() => this.tell(), wait + 1);
  }

  private tell(): void {
    const report = this.report();
    if (report) this.events.onReport(report);
  }
}
