/** The rolling latency plot: one minute, logarithmic, because a relay adds tenths and a network tens of milliseconds. */

const WIDTH = 332;
const HEIGHT = 136;
const LEFT = 50;
const BOTTOM = 18;
const SPAN_MS = 60_000;
const [LOW, HIGH] = [0.01, 1000];
const SVG = 'http://www.w3.org/2000/svg';

export interface Sample {
  at: number;
  up: number;
  down: number;
  rtt: number | undefined;
}

export interface Cut {
  at: number;
  ms: number;
}

function svg(name: string, attributes: Record<string, string | number>, text?: string): SVGElement {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Height of a value. */
function y(ms: number): number {
  const share = Math.log10(Math.min(HIGH, Math.max(LOW, ms)) / LOW) / Math.log10(HIGH / LOW);
  return 6 + (HEIGHT - BOTTOM - 6) * (1 - share);
}

/** Milliseconds as one reads them. */
export function milliseconds(ms: number | undefined): string {
  if (ms === undefined) return '–';
  if (ms < 0.01) return '< 0.01 ms';
  return `${ms.toFixed(ms < 1 ? 2 : ms < 10 ? 1 : 0)} ms`;
}

export class Plot {
  private samples: Sample[] = [];
  private cuts: Cut[] = [];

  constructor(private readonly host: HTMLElement) {
    this.draw(0);
  }

  clear(): void {
    this.samples = [];
    this.cuts = [];
    this.draw(0);
  }

  add(sample: Sample): void {
    this.samples.push(sample);
    this.draw(sample.at);
  }

  addCut(cut: Cut): void {
    this.cuts.push(cut);
    this.draw(cut.at);
  }

  private draw(now: number): void {
    const since = now - SPAN_MS;
    this.samples = this.samples.filter(({ at }) => at >= since);
    this.cuts = this.cuts.filter(({ at }) => at >= since);
    const x = (at: number): number => LEFT + ((at - since) / SPAN_MS) * (WIDTH - LEFT);
    const root = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
    for (const ms of [0.01, 0.1, 1, 10, 100, 1000]) {
      root.append(svg('line', { class: 'grid', x1: LEFT, x2: WIDTH, y1: y(ms), y2: y(ms) }));
      root.append(svg('text', { x: LEFT - 6, y: y(ms) + 4, 'text-anchor': 'end' }, ms === 1000 ? '1 s' : `${ms} ms`));
    }
    root.append(svg('text', { x: LEFT, y: HEIGHT - 2 }, 'a minute ago'));
    root.append(svg('text', { x: WIDTH, y: HEIGHT - 2, 'text-anchor': 'end' }, 'now'));
    for (const cut of this.cuts) {
      const last = cut === this.cuts.at(-1);
      const at = x(cut.at).toFixed(1);
      root.append(svg('line', { class: last ? 'cut' : 'cut past', x1: at, x2: at, y1: 6, y2: HEIGHT - BOTTOM }));
      if (!last) continue;
      const end = Number(at) > WIDTH - 90;
      const label = { class: 'cut-label', x: Number(at) + (end ? -5 : 5), y: 17, 'text-anchor': end ? 'end' : 'start' };
      root.append(svg('text', label, `heard ${cut.ms} ms`));
    }
    for (const name of ['rtt', 'down', 'up'] as const) {
      const points = this.samples.flatMap((sample) => {
        const value = sample[name];
        return value === undefined ? [] : [`${x(sample.at).toFixed(1)},${y(value).toFixed(1)}`];
      });
      if (points.length > 0) root.append(svg('polyline', { class: name, points: points.join(' ') }));
    }
    this.host.replaceChildren(root);
    const last = this.samples.at(-1);
    const words = last
      ? `added ${milliseconds(last.up)} up, ${milliseconds(last.down)} down, round trip ${milliseconds(last.rtt)}`
      : 'no figures yet';
    this.host.setAttribute('aria-label', `Latency over the last minute: ${words}`);
  }
}
