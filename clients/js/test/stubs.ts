/** What stands in for a browser. */

import type { AudioEngine, Capture, TrackOutput } from '../src/audio.js';
import type { Carrier, CarrierEvents, Open, Playback, Report } from '../src/carrier.js';
import type { FromRelay, Start, Started, ToRelay } from '../src/messages.js';
import type { PlayerPort } from '../src/pcm_playback.js';
import type { PlayerCommand, PlayerEvent } from '../src/worklet/player.js';

export const tick = (ms = 0): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export function started(over: Partial<Started> = {}): Started {
  const format = { codec: 'pcm16', rate: 24_000, channels: 1 } as const;
  return {
    session_id: 's-1',
    conversation_id: 'c-1',
    agent: { name: 'storyteller' },
    audio: { in: format, out: format },
    resume_token: 'r-1',
    ...over,
  };
}

export class StubPort implements PlayerPort {
  commands: PlayerCommand[] = [];
  onmessage: ((event: MessageEvent<PlayerEvent>) => void) | null = null;
  closed = false;
  postMessage(command: PlayerCommand): void {
    this.commands.push(command);
  }
  close(): void {
    this.closed = true;
  }
  tell(event: PlayerEvent): void {
    this.onmessage?.({ data: event } as MessageEvent<PlayerEvent>);
  }
}

export class StubAudio implements AudioEngine {
  output = { currentTime: 0, outputLatency: 0.02, baseLatency: 0, sampleRate: 48_000 };
  track: MediaStreamTrack | undefined;
  port = new StubPort();
  onFrame: ((frame: ArrayBuffer) => void) | undefined;
  muted: boolean | undefined;
  microphone = true;
  closed = false;
  createPlayer(): StubPort {
    return (this.port = new StubPort());
  }
  createCapture(_rate: number, _frame: number, onFrame: (frame: ArrayBuffer) => void): Capture {
    this.onFrame = onFrame;
    return { close: () => (this.onFrame = undefined) };
  }
  playTrack(): TrackOutput {
    const mute = async (): Promise<undefined> => void (this.muted = true);
    return { mute, unmute: () => (this.muted = false), close: () => undefined };
  }
  setMicrophoneEnabled(enabled: boolean): void {
    this.microphone = enabled;
  }
  level(): number {
    return 0;
  }
  close(): void {
    this.closed = true;
  }
}

export class StubPlayback implements Playback {
  starved = 0;
  stopped = false;
  pos = 4800;
  onTurn(): void {}
  stop(): Report {
    this.stopped = true;
    return { pos: this.pos, bufferedMs: 0 };
  }
  async flush(): Promise<number> {
    return this.pos;
  }
  report(): Report {
    return { pos: this.pos, bufferedMs: 0 };
  }
}

/** A link whose other end is the test. */
export class StubCarrier implements Carrier {
  readonly transport = 'websocket';
  readonly playback = new StubPlayback();
  readonly droppedMs = 0;
  sent: ToRelay[] = [];
  closedWith: number | undefined;
  constructor(
    readonly start: Start,
    readonly events: CarrierEvents,
  ) {}
  send(message: ToRelay): void {
    this.sent.push(message);
  }
  setMicrophoneEnabled(): void {}
  close(code: number): void {
    this.closedWith = code;
  }
  say(message: FromRelay): void {
    this.events.onMessage(message);
  }
}

/** Opens stub links; `refuse` makes the next attempts fail. */
export function opener(): { open: Open; links: StubCarrier[]; refuse: unknown[]; answer: Partial<Started> } {
  const stub = {
    links: [] as StubCarrier[],
    refuse: [] as unknown[],
    answer: {} as Partial<Started>,
    open: (async (start, events) => {
      const refusal = stub.refuse.shift();
      if (refusal) throw refusal;
      const carrier = new StubCarrier(start, events);
      stub.links.push(carrier);
      return { carrier, started: started({ resume_token: `r-${stub.links.length}`, ...stub.answer }) };
    }) as Open,
  };
  return stub;
}
