/** The switch behind a remote track: shuts at once, and finds out how much of the track was still on its way to it. */

/** What the gate is told. */
export type GateCommand = 'shut' | 'open';

/** Of what was still coming when the gate was shut, this much came: seconds. Told when the track has fallen silent. */
export interface GateEvent {
  drained: number;
}

/** Frames over which it shuts and opens, so that neither clicks: 1.3 ms at 48 kHz. */
const FADE = 64;
/** The track is silent when so much of it was. */
const SILENT_S = 0.012;

/** Passes one stream of frames on, or not. */
export class Gate {
  private open = true;
  private gain = 1;
  /** Frames since it was shut, and those before the last one that was not silent. */
  private since = 0;
  private sounding = 0;
  private told = true;

  constructor(
    private readonly rate: number,
    private readonly tell: (event: GateEvent) => void,
  ) {}

  handle(command: GateCommand): void {
    this.open = command === 'open';
    this.since = this.sounding = 0;
    this.told = this.open;
  }

  render(input: Float32Array | undefined, output: Float32Array): void {
    const [to, step] = this.open ? [1, 1 / FADE] : [0, -1 / FADE];
    for (let i = 0; i < output.length; i++) {
      const sample = input?.[i] ?? 0;
      if (this.gain !== to) this.gain = Math.max(0, Math.min(1, this.gain + step));
      output[i] = sample * this.gain;
      this.since += 1;
      if (sample !== 0) this.sounding = this.since;
    }
    if (this.told || this.since - this.sounding < SILENT_S * this.rate) return;
    this.told = true;
    this.tell({ drained: this.sounding / this.rate });
  }
}
