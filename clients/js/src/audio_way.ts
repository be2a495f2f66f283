/** How audio travels on a WebTransport connection: RTP in datagrams, or on a stream where there are none. */

import { readRtp, writeRtp, type RtpPacket } from './rtp.js';
import { concat, decodeVarint, encodeVarint } from './varint.js';

/** Packets that wait for the network; older ones would only be late. */
export const WAITING_MAX = 25;
const OUTGOING_MAX_AGE_MS = 300;
/** Of a datagram, where the browser does not tell. */
const ASSUMED_BYTES = 1100;
const RTP_HEADER = 12;
/** Largest packet on a stream. */
const PACKET_MAX = 65_536;
/** The type of an audio stream (docs/protocol.md). */
const AUDIO = 1;

/** One flow's audio. */
export interface AudioWay {
  /** The most bytes of audio that a packet holds. */
  readonly room: number;
  /** Sends a packet; resolves when the network has taken it. */
  write(packet: RtpPacket): Promise<void>;
  /** Hands over what comes, until the connection ends. */
  read(onPacket: (packet: RtpPacket) => void): Promise<void>;
}

/** The way for a flow whose packets hold `least` bytes of audio at least. A stream is open when it resolves. */
export async function openAudioWay(link: WebTransport, flow: number, least: number): Promise<AudioWay> {
  const ssrc = Math.floor(Math.random() * 2 ** 32);
  const { datagrams } = link as { datagrams?: WebTransportDatagramDuplexStream };
  if (datagrams) {
    const prefix = encodeVarint(flow);
    const room = (datagrams.maxDatagramSize ?? ASSUMED_BYTES) - prefix.length - RTP_HEADER;
    if (room >= least) return new Datagrams(datagrams, prefix, room, ssrc);
  }
  const stream = new AudioStream(link, flow, ssrc);
  await stream.open();
  return stream;
}

class Datagrams implements AudioWay {
  private readonly writer: WritableStreamDefaultWriter<Uint8Array>;

  constructor(
    private readonly datagrams: WebTransportDatagramDuplexStream,
    private readonly prefix: Uint8Array,
    readonly room: number,
    private readonly ssrc: number,
  ) {
    datagrams.outgoingHighWaterMark = WAITING_MAX;
    datagrams.outgoingMaxAge = OUTGOING_MAX_AGE_MS;
    this.writer = datagrams.writable.getWriter();
  }

  write(packet: RtpPacket): Promise<void> {
    return this.writer.write(writeRtp(this.prefix, packet, this.ssrc));
  }

  async read(onPacket: (packet: RtpPacket) => void): Promise<void> {
    const reader = (this.datagrams.readable as ReadableStream<Uint8Array>).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const others = this.prefix.some((byte, i) => value[i] !== byte);
      const packet = others ? undefined : readRtp(value.subarray(this.prefix.length));
      if (packet) onPacket(packet);
    }
  }
}

class AudioStream implements AudioWay {
  readonly room = PACKET_MAX - RTP_HEADER;
  private reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  private writer: WritableStreamDefaultWriter<Uint8Array> | undefined;

  constructor(
    private readonly link: WebTransport,
    private readonly flow: number,
    private readonly ssrc: number,
  ) {}

  async open(): Promise<void> {
    const stream = await this.link.createBidirectionalStream();
    this.reader = (stream.readable as ReadableStream<Uint8Array>).getReader();
    this.writer = stream.writable.getWriter();
    void this.writer.write(concat(encodeVarint(AUDIO), encodeVarint(this.flow))).catch(() => undefined);
  }

  write(packet: RtpPacket): Promise<void> {
    const length = encodeVarint(RTP_HEADER + packet.payload.length);
    return this.writer!.write(writeRtp(length, packet, this.ssrc));
  }

  async read(onPacket: (packet: RtpPacket) => void): Promise<void> {
    for (;;) {
      const { reader, writer } = this;
      await readFrames(reader!, onPacket).catch(() => undefined);
      // The relay has thrown away what was under way: what is new comes by the next stream.
      void writer!.abort().catch(() => undefined);
      await this.open();
    }
  }
}

/** Reads packets, each behind its length, until the stream ends. */
async function readFrames(reader: ReadableStreamDefaultReader<Uint8Array>, onPacket: (packet: RtpPacket) => void): Promise<void> {
  let unread: Uint8Array = new Uint8Array(0);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    unread = unread.length ? concat(unread, value) : value;
    for (let length = decodeVarint(unread); length; length = decodeVarint(unread)) {
      if (length.value > PACKET_MAX) throw new Error('a packet is too large');
      const end = length.end + length.value;
      if (unread.length < end) break;
      const packet = readRtp(unread.subarray(length.end, end));
      unread = unread.subarray(end);
      if (packet) onPacket(packet);
    }
  }
}
