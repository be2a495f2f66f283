/** `antiphon.v1` over WebSocket: text frames are messages, binary frames are PCM16. */

import type { AudioEngine, Capture } from './audio.js';
import type { Carrier, CarrierEvents, Open } from './carrier.js';
import { AntiphonError } from './errors.js';
import { parse, type AudioFormats, type ToRelay } from './messages.js';
import { PcmPlayback } from './pcm_playback.js';

/** What is asked for: half the bandwidth of 48 kHz, and no resampling towards most agents. */
export const RATE = 24_000;
const FRAME = RATE / 50;
const FORMATS: AudioFormats = { in: { codec: 'pcm16', rate: RATE }, out: { codec: 'pcm16', rate: RATE } };
/** Bytes that may wait for the network: half a second of microphone. More would only make it late. */
const BACKLOG = RATE;
const OPEN_MS = 10_000;

export interface WebSocketOptions {
  url: string;
  audio: AudioEngine;
  /** For environments that bring their own. */
  WebSocket?: typeof WebSocket;
}

/** Makes an opener of WebSocket links. */
export function webSocketOpener(options: WebSocketOptions): Open {
  return (start, events) =>
    new Promise((resolve, reject) => {
      const Socket = options.WebSocket ?? WebSocket;
      const socket = new Socket(options.url, ['antiphon.v1']);
      socket.binaryType = 'arraybuffer';
      const carrier = new WebSocketCarrier(socket, options.audio, events);
      let refusal: AntiphonError | undefined;
      const fail = (error: AntiphonError): void => {
        clearTimeout(timer);
        carrier.close(4000);
        reject(error);
      };
      const timer = setTimeout(
        () => fail(new AntiphonError('unreachable', `no answer from ${options.url} within ${OPEN_MS / 1000} s`, true)),
        OPEN_MS,
      );
      socket.onopen = () => socket.send(JSON.stringify({ ...start, audio: FORMATS }));
      socket.onclose = ({ code, reason }) => {
        const why = `${options.url} cannot be reached, or does not list this page's origin in \`http.origins\``;
        const unreached = new AntiphonError('unreachable', why, true);
        fail(refusal ?? (code === 1006 ? unreached : AntiphonError.ofClose(code, reason)));
      };
      socket.onmessage = ({ data }) => {
        const message = parse(data);
        if (message?.type === 'error') refusal = AntiphonError.of(message);
        if (message?.type !== 'started') return;
        clearTimeout(timer);
        carrier.run();
        resolve({ carrier, started: message });
      };
    });
}

class WebSocketCarrier implements Carrier {
  readonly transport = 'websocket';
  readonly playback: PcmPlayback;
  droppedMs = 0;
  private readonly player: ReturnType<AudioEngine['createPlayer']>;
  private capture: Capture | undefined;
  private enabled = true;
  private closed = false;

  constructor(
    private readonly socket: WebSocket,
    private readonly audio: AudioEngine,
    private readonly events: CarrierEvents,
  ) {
    this.player = audio.createPlayer(RATE);
    this.playback = new PcmPlayback(this.player, audio.output, RATE, events);
  }

  run(): void {
    const { socket, events } = this;
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) return this.playback.onFrame(data);
      const message = parse(data);
      if (message) events.onMessage(message);
    };
    socket.onclose = ({ code, reason }) => this.finish(code, reason);
    this.capture = this.audio.createCapture(RATE, FRAME, (frame) => this.sendFrame(frame));
  }

  private sendFrame(frame: ArrayBuffer): void {
    if (!this.enabled || this.socket.readyState !== 1) return;
    if (this.socket.bufferedAmount > BACKLOG) this.droppedMs += (frame.byteLength / 2 / RATE) * 1000;
    else this.socket.send(frame);
  }

  send(message: ToRelay): void {
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify(message));
  }

  setMicrophoneEnabled(enabled: boolean): void {
    this.enabled = enabled;
  }

  close(code: number): void {
    if (this.closed) return;
    this.release();
    this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
    this.socket.close(code);
  }

  private finish(code: number, reason: string): void {
    if (this.closed) return;
    this.release();
    this.events.onClosed(code, reason);
  }

  private release(): void {
    this.closed = true;
    this.capture?.close();
    this.playback.close();
    this.player.close();
  }
}
