/** Measures the round trip, and notices a link that is dead without having been closed. */

/** Between two pings. */
export const PING_MS = 2000;
/** A link from which nothing has come for so long is lost: a sleeping Wi-Fi closes no socket. */
export const SILENCE_MS = 7000;
/** Timers that come so late were stopped by the browser (sleep, background), and tell nothing about the link. */
const ASLEEP_MS = 5000;

export interface LifelineEvents {
  onPing(t: number): void;
  onLost(): void;
}

/** One link's lifeline; times are milliseconds of any clock. */
export class Lifeline {
  /** The last round trip; `undefined` before the first. */
  rttMs: number | undefined;
  private last: number;
  private ticked: number;

  constructor(
    private readonly events: LifelineEvents,
    now: number,
  ) {
    this.last = this.ticked = now;
  }

  /** Something came. */
  onAlive(now: number): void {
    this.last = now;
  }

  /** An answer to a ping: `t` as it was sent. */
  onPong(t: number, now: number): void {
    this.rttMs = Math.max(0, now - t / 1000);
  }

  /** Call it every `PING_MS`. */
  tick(now: number): void {
    if (now - this.ticked > PING_MS + ASLEEP_MS) this.last = now;
    this.ticked = now;
    if (now - this.last > SILENCE_MS) this.events.onLost();
    else this.events.onPing(Math.round(now * 1000));
  }
}
