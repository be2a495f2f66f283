/** A windowed-sinc resampler between any two rates, with exact integer positions: nothing drifts. */

/** Zero crossings of the sinc on each side. */
const CROSSINGS = 16;
/** The pass band, as a share of the lower Nyquist frequency. */
const PASS = 0.92;
/** Shape of the Kaiser window: about 80 dB below the pass band. */
const BETA = 8;

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Modified Bessel function of order 0. */
function bessel(x: number): number {
  let [sum, term] = [1, 1];
  for (let k = 1; k < 40; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

/** Coefficients for one ratio of rates. */
export class Kernel {
  /** One input sample is `phases` steps, one output sample `stride` steps. */
  readonly phases: number;
  readonly stride: number;
  /** Input samples on each side of an output sample that it is made of. */
  readonly half: number;
  private readonly taps: Float32Array;

  constructor(from: number, to: number) {
    const common = gcd(from, to);
    this.phases = to / common;
    this.stride = from / common;
    if (from === to) {
      this.half = 1;
      this.taps = new Float32Array(2);
      this.taps[0] = 1;
      return;
    }
    const cutoff = PASS * Math.min(1, to / from);
    this.half = Math.ceil(CROSSINGS / Math.min(1, to / from));
    this.taps = new Float32Array(this.phases * this.half * 2);
    for (let phase = 0; phase < this.phases; phase++) this.design(phase, cutoff);
  }

  private design(phase: number, cutoff: number): void {
    const width = this.half * 2;
    let sum = 0;
    for (let k = 0; k < width; k++) {
      const x = k - this.half + 1 - phase / this.phases;
      const edge = x / this.half;
      const window = Math.abs(edge) >= 1 ? 0 : bessel(BETA * Math.sqrt(1 - edge * edge)) / bessel(BETA);
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      sum += this.taps[phase * width + k] = sinc * window;
    }
    for (let k = 0; k < width; k++) this.taps[phase * width + k]! /= sum;
  }

  /** The output sample that stands `phase` steps after input position `at`. */
  apply(ring: Ring, at: number, phase: number): number {
    const width = this.half * 2;
    const first = at - this.half + 1;
    let sum = 0;
    for (let k = 0; k < width; k++) sum += this.taps[phase * width + k]! * ring.at(first + k);
    return sum;
  }
}

/** The last samples of a stream by position; silence outside of what it holds. */
export class Ring {
  /** Positions held: `from <= position < end`. */
  from = 0;
  end = 0;
  private readonly samples: Float32Array;
  private readonly mask: number;

  /** Holds `capacity` samples, a power of two. */
  constructor(readonly capacity: number) {
    this.samples = new Float32Array(capacity);
    this.mask = capacity - 1;
  }

  at(position: number): number {
    return position >= this.from && position < this.end ? this.samples[position & this.mask]! : 0;
  }

  /** Forgets everything and goes on at `position`. */
  restart(position: number): void {
    this.from = this.end = position;
  }

  /** Appends; the oldest are forgotten. */
  push(samples: ArrayLike<number>, scale = 1): void {
    for (let i = 0; i < samples.length; i++) this.samples[(this.end + i) & this.mask] = samples[i]! * scale;
    this.end += samples.length;
    this.from = Math.max(this.from, this.end - this.capacity);
  }
}
