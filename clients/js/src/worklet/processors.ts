/** The file that the audio thread loads: the processors. */

import { Gate, type GateCommand } from './gate.js';
import { Player, type PlayerCommand } from './player.js';
import { Recorder } from './recorder.js';

declare const sampleRate: number;
declare const currentFrame: number;
declare function registerProcessor(name: string, processor: unknown): void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

interface Options {
  processorOptions: { rate: number; frame: number };
}

class PlayerProcessor extends AudioWorkletProcessor {
  private readonly player: Player;
  private closed = false;

  constructor({ processorOptions: { rate } }: Options) {
    super();
    this.player = new Player(rate, sampleRate, (event) => this.port.postMessage(event));
    this.port.onmessage = ({ data }: MessageEvent<PlayerCommand | { type: 'close' }>) => {
      if (data.type === 'close') this.closed = true;
      else this.player.handle(data, currentFrame);
    };
  }

  process(_inputs: Float32Array[][], [output]: Float32Array[][]): boolean {
    const [first, ...others] = output ?? [];
    if (first) {
      this.player.render(first, currentFrame);
      for (const channel of others) channel.set(first);
    }
    return !this.closed;
  }
}

class RecorderProcessor extends AudioWorkletProcessor {
  private readonly recorder: Recorder;
  private closed = false;

  constructor({ processorOptions: { rate, frame } }: Options) {
    super();
    this.recorder = new Recorder(sampleRate, rate, frame, (samples) =>
      this.port.postMessage(samples.buffer, [samples.buffer]),
    );
    this.port.onmessage = () => (this.closed = true);
  }

  process([input]: Float32Array[][]): boolean {
    const block = input?.[0];
    if (block) this.recorder.push(block);
    return !this.closed;
  }
}

class GateProcessor extends AudioWorkletProcessor {
  private readonly gate = new Gate(sampleRate, (event) => this.port.postMessage(event));
  private closed = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<GateCommand | 'close'>) => {
      if (data === 'close') this.closed = true;
      else this.gate.handle(data);
    };
  }

  process([input]: Float32Array[][], [output]: Float32Array[][]): boolean {
    const [first, ...others] = output ?? [];
    if (first) {
      this.gate.render(input?.[0], first);
      for (const channel of others) channel.set(first);
    }
    return !this.closed;
  }
}

registerProcessor('antiphon-gate', GateProcessor);
registerProcessor('antiphon-player', PlayerProcessor);
registerProcessor('antiphon-recorder', RecorderProcessor);
