/** The browser's audio: context, worklet, microphone, loudspeaker, level meters. */

import workletSource from 'worklet:source';
import { AntiphonError } from './errors.js';
import type { PlayerPort } from './pcm_playback.js';
import type { OutputClock } from './playout_clock.js';
import type { GateEvent } from './worklet/gate.js';

export interface AudioOptions {
  /** `false`: no microphone; a stream: this one; constraints: instead of the usual ones for speech. */
  microphone?: boolean | MediaStream | MediaTrackConstraints;
  /** Use this context; it is not closed at the end. */
  audioContext?: AudioContext;
  /** The worklet as a file (`/antiphon-worklet.js`), where a Content-Security-Policy forbids `blob:` scripts. */
  workletUrl?: string | URL;
}

/** Samples of the microphone at a link's rate, frame by frame. */
export interface Capture {
  close(): void;
}

/** A remote track that is played. */
export interface TrackOutput {
  /**
   * Silence, at once. Resolves with the seconds of sound that had left the track and not reached the loudspeaker's side
   * of the switch; `undefined` where that cannot be found out.
   */
  mute(): Promise<number | undefined>;
  unmute(): void;
  close(): void;
}

/** What carriers use of the browser's audio. */
export interface AudioEngine {
  readonly output: OutputClock & { readonly sampleRate: number };
  /** The microphone's track; `undefined` without one. */
  readonly track: MediaStreamTrack | undefined;
  createPlayer(rate: number): PlayerPort & { close(): void };
  createCapture(rate: number, frame: number, onFrame: (frame: ArrayBuffer) => void): Capture | undefined;
  playTrack(track: MediaStreamTrack): TrackOutput;
  setMicrophoneEnabled(enabled: boolean): void;
  /** Root mean square of the last 20 ms or so, 0 to 1. */
  level(of: 'microphone' | 'agent'): number;
  close(): void;
}

/** What is between a track and the loudspeaker runs dry within this time. */
const DRAIN_MS = 150;

/** A context that has not begun after so long never will. */
const RESUME_MS = 5000;

const SPEECH: MediaTrackConstraints = {
  channelCount: 1,
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
};

/** Asks for the microphone and makes ready. Call it from a user's click, or browsers keep the sound off. */
export async function openAudio(options: AudioOptions): Promise<AudioEngine> {
  const context = options.audioContext ?? new AudioContext({ latencyHint: 'interactive' });
  try {
    const resumed = context.state === 'suspended' ? context.resume() : undefined;
    const [stream] = await Promise.all([openMicrophone(options.microphone ?? true), loadWorklet(context, options)]);
    if (resumed) await sounding(resumed);
    return new BrowserAudio(context, stream, options);
  } catch (error) {
    if (!options.audioContext) void context.close();
    throw error;
  }
}

/** Browsers wait for ever where there is nothing to play sound with, or where no click came before. */
async function sounding(resumed: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const never = new Promise<never>((_, reject) => {
    const help = 'call `connect` from a click, and see that the machine has a loudspeaker';
    timer = setTimeout(() => reject(new AntiphonError('audio_unavailable', `sound does not start: ${help}`, true)), RESUME_MS);
  });
  await Promise.race([resumed, never]).finally(() => clearTimeout(timer));
}

async function openMicrophone(wanted: NonNullable<AudioOptions['microphone']>): Promise<MediaStream | undefined> {
  if (wanted === false || wanted instanceof MediaStream) return wanted || undefined;
  if (!globalThis.isSecureContext || !navigator.mediaDevices) {
    const help = 'open the page over https, or through http://localhost (for example an SSH port forward)';
    throw new AntiphonError('insecure_context', `browsers give the microphone to secure pages only: ${help}`);
  }
  const audio = wanted === true ? SPEECH : { ...SPEECH, ...wanted };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const name = error instanceof Error ? error.name : '';
    if (name === 'NotAllowedError') {
      throw new AntiphonError('microphone_denied', 'the microphone was not allowed; allow it for this page, then try again', true);
    }
    throw new AntiphonError('microphone_missing', `no microphone can be used (${name || String(error)})`, true);
  }
}

async function loadWorklet(context: AudioContext, options: AudioOptions): Promise<void> {
  if (!context.audioWorklet) {
    throw new AntiphonError('insecure_context', 'audio worklets are for secure pages only: use https or http://localhost');
  }
  const blob = options.workletUrl ? undefined : URL.createObjectURL(new Blob([workletSource], { type: 'text/javascript' }));
  try {
    await context.audioWorklet.addModule(String(options.workletUrl ?? blob));
  } catch (error) {
    const help = options.workletUrl ? `is ${options.workletUrl} there?` : 'set `workletUrl` if a Content-Security-Policy forbids blob:';
    throw new AntiphonError('audio_unavailable', `the audio worklet was not loaded (${String(error)}); ${help}`);
  } finally {
    if (blob) URL.revokeObjectURL(blob);
  }
}

class BrowserAudio implements AudioEngine {
  readonly output: AudioContext;
  readonly track: MediaStreamTrack | undefined;
  private readonly speaker: GainNode;
  private readonly source: MediaStreamAudioSourceNode | undefined;
  private readonly meters: Partial<Record<'microphone' | 'agent', AnalyserNode>> = {};
  private readonly window = new Float32Array(1024);

  constructor(
    private readonly context: AudioContext,
    stream: MediaStream | undefined,
    private readonly options: AudioOptions,
  ) {
    this.output = context;
    this.speaker = context.createGain();
    this.speaker.connect(context.destination);
    this.speaker.connect((this.meters.agent = this.meter()));
    this.track = stream?.getAudioTracks()[0];
    if (stream && this.track) {
      this.source = context.createMediaStreamSource(stream);
      this.source.connect((this.meters.microphone = this.meter()));
    }
  }

  private meter(): AnalyserNode {
    const meter = this.context.createAnalyser();
    meter.fftSize = this.window.length;
    return meter;
  }

  createPlayer(rate: number): PlayerPort & { close(): void } {
    const node = new AudioWorkletNode(this.context, 'antiphon-player', {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate },
    });
    node.connect(this.speaker);
    const port = node.port as MessagePort & PlayerPort;
    return Object.assign(port, {
      close: () => {
        port.postMessage({ type: 'close' });
        node.disconnect();
      },
    });
  }

  createCapture(rate: number, frame: number, onFrame: (frame: ArrayBuffer) => void): Capture | undefined {
    if (!this.source) return undefined;
    const { source } = this;
    const node = new AudioWorkletNode(this.context, 'antiphon-recorder', {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: 'explicit',
      processorOptions: { rate, frame },
    });
    node.port.onmessage = ({ data }: MessageEvent<ArrayBuffer>) => onFrame(data);
    source.connect(node);
    return {
      close: () => {
        source.disconnect(node);
        node.port.postMessage({ type: 'close' });
        node.port.onmessage = null;
      },
    };
  }

  playTrack(track: MediaStreamTrack): TrackOutput {
    const stream = new MediaStream([track]);
    // Chromium lets a remote track flow into a context only while an element plays it too.
    const element = new Audio();
    element.srcObject = stream;
    element.muted = true;
    void element.play().catch(() => undefined);
    const source = this.context.createMediaStreamSource(stream);
    const gate = new AudioWorkletNode(this.context, 'antiphon-gate', {
      channelCount: 1,
      channelCountMode: 'explicit',
      outputChannelCount: [1],
    });
    source.connect(gate).connect(this.speaker);
    let settle: ((drained?: number) => void) | undefined;
    gate.port.onmessage = ({ data }: MessageEvent<GateEvent>) => settle?.(data.drained);
    return {
      mute: () => {
        settle?.();
        gate.port.postMessage('shut');
        // What is before the switch runs dry then, which shows how much it was; and it does not grow from call to call.
        track.enabled = false;
        return new Promise((resolve) => {
          const timer = setTimeout(() => settle?.(), DRAIN_MS);
          settle = (drained) => {
            settle = undefined;
            clearTimeout(timer);
            track.enabled = true;
            resolve(drained);
          };
        });
      },
      unmute: () => {
        settle?.();
        gate.port.postMessage('open');
      },
      close: () => {
        settle?.();
        gate.port.postMessage('close');
        element.srcObject = null;
        source.disconnect();
        gate.disconnect();
      },
    };
  }

  setMicrophoneEnabled(enabled: boolean): void {
    if (this.track) this.track.enabled = enabled;
  }

  level(of: 'microphone' | 'agent'): number {
    const meter = this.meters[of];
    if (!meter) return 0;
    meter.getFloatTimeDomainData(this.window);
    let sum = 0;
    for (const sample of this.window) sum += sample * sample;
    return Math.sqrt(sum / this.window.length);
  }

  close(): void {
    if (!(this.options.microphone instanceof MediaStream)) this.track?.stop();
    this.source?.disconnect();
    this.speaker.disconnect();
    if (!this.options.audioContext) void this.context.close();
  }
}
