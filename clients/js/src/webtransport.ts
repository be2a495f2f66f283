/** `antiphon.v1` over WebTransport: messages on a stream, audio as RTP in datagrams or on another (docs/protocol.md). */

import type { AudioEngine, Capture } from './audio.js';
import { openAudioWay, WAITING_MAX, type AudioWay } from './audio_way.js';
import type { Carrier, CarrierEvents, Open } from './carrier.js';
import { AntiphonError } from './errors.js';
import { parse, type AudioFormats, type FromRelay, type Started, type ToRelay } from './messages.js';
import { PcmPlayback } from './pcm_playback.js';
import { PCM16, type RtpPacket } from './rtp.js';
import { RtpOrder } from './rtp_order.js';
import { concat, decodeVarint, encodeVarint } from './varint.js';

const RATE = 24_000;
/** One session per connection: any number will do. */
const FLOW = 1;
const FORMATS: AudioFormats = { in: { codec: 'pcm16', rate: RATE }, out: { codec: 'pcm16', rate: RATE } };
/** A path that UDP cannot take is given up soon: there are others. */
const READY_MS = 1500;
const START_MS = 10_000;
/** Largest control message. */
const MESSAGE_MAX = 65_536;
/** Samples of a packet: 20 ms, or 10 where no more fits. */
const FRAMES = [RATE / 50, RATE / 100] as const;

export interface WebTransportOptions {
  url: string;
  /** SHA-256 of a self-signed certificate, hexadecimal. */
  certificate?: string | undefined;
  audio: AudioEngine;
  WebTransport?: typeof WebTransport | undefined;
}

/**
 * Whether the browser's WebTransport can be trusted with a call. WebKit's stops delivering datagrams after some
 * minutes; every browser on iOS is WebKit.
 */
export function isTrusted(userAgent: string): boolean {
  return !/AppleWebKit/.test(userAgent) || /Chrom(e|ium)\//.test(userAgent);
}

/** Bytes of a hexadecimal text. */
function bytesOf(hex: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** Resolves as `promise` does, or rejects with `late` after `ms`. */
async function within<T>(promise: Promise<T>, ms: number, late: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new AntiphonError('transport_unavailable', late, true)), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Makes an opener of WebTransport links. */
export function webTransportOpener(options: WebTransportOptions): Open {
  return async (start, events) => {
    const Transport = options.WebTransport ?? WebTransport;
    let transport: WebTransport | undefined;
    try {
      transport = new Transport(options.url, {
        congestionControl: 'low-latency',
        requireUnreliable: true,
        ...(options.certificate && {
          serverCertificateHashes: [{ algorithm: 'sha-256', value: bytesOf(options.certificate) }],
        }),
      });
      // What ends the connection is told by what waits for it.
      transport.closed.catch(() => undefined);
      await within(transport.ready, READY_MS, `${options.url} did not answer within ${READY_MS / 1000} s`);
      const stream = await transport.createBidirectionalStream();
      const way = await openAudioWay(transport, FLOW, FRAMES[1] * 2);
      const carrier = new WebTransportCarrier(transport, stream, way, options.audio, events);
      const started = await within(carrier.start({ ...start, audio: FORMATS }), START_MS, 'the relay did not start');
      return { carrier, started };
    } catch (error) {
      try {
        transport?.close({ closeCode: 4000, reason: '' });
      } catch {
        // It never came to be.
      }
      if (error instanceof AntiphonError) throw error;
      throw new AntiphonError('transport_unavailable', `no WebTransport call could be set up: ${String(error)}`, true);
    }
  };
}

class WebTransportCarrier implements Carrier {
  readonly transport = 'webtransport';
  readonly playback: RtpPlayback;
  droppedMs = 0;
  private readonly player: ReturnType<AudioEngine['createPlayer']>;
  private readonly control: WritableStreamDefaultWriter<Uint8Array>;
  private capture: Capture | undefined;
  private enabled = true;
  private closed = false;
  private seq = 0;
  private sent = 0;
  /** Packets that the network has not taken. */
  private waiting = 0;
  /** The next packet begins a stretch of speech. */
  private marker = true;
  private refusal: AntiphonError | undefined;
  private onStarted: ((started: Started) => void) | undefined;
  private onFailed: ((error: AntiphonError) => void) | undefined;

  constructor(
    private readonly link: WebTransport,
    private readonly stream: WebTransportBidirectionalStream,
    private readonly way: AudioWay,
    private readonly audio: AudioEngine,
    private readonly events: CarrierEvents,
  ) {
    this.player = audio.createPlayer(RATE);
    this.playback = new RtpPlayback(this.player, audio.output, events);
    this.control = stream.writable.getWriter();
  }

  /** Says `start` and waits for the answer; then the microphone is on. */
  async start(start: ToRelay): Promise<Started> {
    const started = new Promise<Started>((resolve, reject) => ([this.onStarted, this.onFailed] = [resolve, reject]));
    void this.control.write(concat(encodeVarint(0), encodeVarint(FLOW))).catch(() => undefined);
    this.send(start);
    void this.readControl();
    // That the connection has ended the control stream tells.
    void this.way.read((packet) => this.playback.onPacket(packet)).catch(() => undefined);
    return started;
  }

  private async readControl(): Promise<void> {
    const reader = (this.stream.readable as ReadableStream<Uint8Array>).getReader();
    let unread: Uint8Array = new Uint8Array(0);
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        unread = concat(unread, value);
        for (let length = decodeVarint(unread); length; length = decodeVarint(unread)) {
          if (length.value > MESSAGE_MAX) throw new Error('a message is too large');
          const end = length.end + length.value;
          if (unread.length < end) break;
          const message = parse(new TextDecoder().decode(unread.subarray(length.end, end)));
          unread = unread.subarray(end);
          if (message) this.onMessage(message);
          // The session takes over before it is told more.
          if (message?.type === 'started') await new Promise((resolve) => setTimeout(resolve));
        }
      }
    } catch {
      // The reason is told below.
    }
    const { code, reason } = await this.ending();
    this.finish(code, reason);
  }

  /** Why it ended: the code of the stream, else that of the connection. */
  private async ending(): Promise<{ code: number; reason: string }> {
    const stopped = this.control.closed.then(
      () => ({ code: 1000, reason: '' }),
      (error: WebTransportError) => {
        if (error?.streamErrorCode === undefined || error.streamErrorCode === null) throw error;
        return { code: error.streamErrorCode, reason: '' };
      },
    );
    const closed = this.link.closed.then(({ closeCode, reason }) => ({ code: closeCode || 1006, reason: reason ?? '' }));
    const unknown = new Promise<{ code: number; reason: string }>((resolve) =>
      setTimeout(() => resolve({ code: 1006, reason: 'the connection was lost' }), 500),
    );
    return Promise.race([Promise.any([stopped, closed]).catch(() => unknown), unknown]);
  }

  private onMessage(message: FromRelay): void {
    if (!this.onStarted) return this.events.onMessage(message);
    if (message.type === 'error') this.refusal = AntiphonError.of(message);
    if (message.type !== 'started') return;
    this.onStarted(message);
    this.onStarted = this.onFailed = undefined;
    const frame = FRAMES.find((samples) => samples * 2 <= this.way.room) ?? FRAMES[1];
    this.capture = this.audio.createCapture(RATE, frame, (samples) => this.sendFrame(samples));
  }

  private sendFrame(frame: ArrayBuffer): void {
    const timestamp = this.sent;
    this.sent += frame.byteLength / 2;
    if (!this.enabled || this.closed) {
      this.marker = true;
      return;
    }
    if (this.waiting >= WAITING_MAX) {
      this.droppedMs += (frame.byteLength / 2 / RATE) * 1000;
      this.seq += 1;
      return;
    }
    const packet = { payloadType: PCM16, marker: this.marker, seq: this.seq, timestamp, payload: new Uint8Array(frame) };
    this.marker = false;
    this.seq += 1;
    this.waiting += 1;
    const written = (): void => void (this.waiting -= 1);
    this.way.write(packet).then(written, written);
  }

  send(message: ToRelay): void {
    if (this.closed) return;
    const text = new TextEncoder().encode(JSON.stringify(message));
    void this.control.write(concat(encodeVarint(text.length), text)).catch(() => undefined);
  }

  setMicrophoneEnabled(enabled: boolean): void {
    this.enabled = enabled;
  }

  close(code: number): void {
    if (this.closed) return;
    this.release();
    this.hangUp(code);
  }

  private hangUp(code: number): void {
    try {
      this.link.close({ closeCode: code, reason: '' });
    } catch {
      // It is closed.
    }
  }

  private finish(code: number, reason: string): void {
    if (this.closed) return;
    this.onFailed?.(this.refusal ?? AntiphonError.ofClose(code, reason));
    this.release();
    this.hangUp(code === 1000 ? 1000 : 4000);
    this.events.onClosed(code, reason);
  }

  private release(): void {
    this.closed = true;
    this.capture?.close();
    this.playback.close();
    this.player.close();
  }
}

/** Playback by position: what is missing is silence, what is void is thrown away. */
class RtpPlayback extends PcmPlayback {
  private readonly order: RtpOrder;

  constructor(
    port: ConstructorParameters<typeof PcmPlayback>[0],
    output: ConstructorParameters<typeof PcmPlayback>[1],
    events: CarrierEvents,
  ) {
    super(port, output, RATE, events);
    this.order = new RtpOrder(RATE, (samples, pos) => this.onSamples(samples, pos));
  }

  onPacket(packet: RtpPacket): void {
    if (packet.payloadType === PCM16) this.order.push(packet);
  }

  override flush(flush: Parameters<PcmPlayback['flush']>[0]): Promise<number> {
    const heard = super.flush(flush);
    this.order.flush(flush.valid_from);
    return heard;
  }

  override close(): void {
    this.order.close();
    super.close();
  }
}
