/** A level meter, from -60 to 0 dB. */

const FLOOR_DB = -60;
/** What a screen reader is told changes no more often. */
const SPOKEN_MS = 1000;

export class Meter {
  private shown = FLOOR_DB;
  private spokenAt = 0;
  private readonly bar: HTMLElement;

  constructor(private readonly host: HTMLElement) {
    this.bar = host.querySelector('i')!;
  }

  /** Takes a root mean square, 0 to 1. */
  show(level: number, now: number): void {
    const db = Math.max(FLOOR_DB, 20 * Math.log10(level + 1e-6));
    // Up at once, down slowly, as meters do.
    this.shown = db > this.shown ? db : Math.max(db, this.shown - 1.5);
    this.bar.style.transform = `translateX(${((this.shown / FLOOR_DB) * -100).toFixed(1)}%)`;
    if (now - this.spokenAt < SPOKEN_MS) return;
    this.spokenAt = now;
    this.host.setAttribute('aria-valuenow', String(Math.round(this.shown)));
    this.host.setAttribute('aria-valuetext', this.shown < -50 ? 'silent' : this.shown < -30 ? 'quiet' : 'loud');
  }
}
