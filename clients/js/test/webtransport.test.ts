import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CarrierEvents } from '../src/carrier.js';
import { PCM16, extend, readRtp, writeRtp } from '../src/rtp.js';
import { RtpOrder } from '../src/rtp_order.js';
import { concat, decodeVarint, encodeVarint } from '../src/varint.js';
import { webTransportOpener } from '../src/webtransport.js';
import { StubAudio, started, tick } from './stubs.js';

const packet = (timestamp: number, value = timestamp, marker = false) => {
  const payload = new Uint8Array(new Int16Array(480).fill(value).buffer);
  return { payloadType: PCM16, marker, seq: timestamp / 480, timestamp, payload };
};

/** What comes out of an order: position and first sample of each piece. */
function ordered() {
  const out: [pos: number, first: number, length: number][] = [];
  const order = new RtpOrder(24_000, (samples, pos) => out.push([pos, samples[0]!, samples.length]));
  return { out, order };
}

test('integers of QUIC are written and read in all their lengths', () => {
  for (const value of [0, 63, 64, 16_383, 16_384, 2 ** 30 - 1]) {
    const bytes = encodeVarint(value);
    assert.deepEqual(decodeVarint(concat(Uint8Array.of(9), bytes), 1), { value, end: 1 + bytes.length });
    assert.equal(decodeVarint(bytes.subarray(0, bytes.length - 1)), undefined);
  }
  assert.deepEqual(decodeVarint(Uint8Array.of(0xc0, 0, 0, 1, 0, 0, 0, 2)), { value: 2 ** 32 + 2, end: 8 });
});

test('RTP packets are read without what does not belong to the audio', () => {
  const bytes = writeRtp(encodeVarint(300), packet(960, 7, true), 5);
  const read = readRtp(bytes.subarray(2))!;
  assert.deepEqual([read.payloadType, read.marker, read.seq, read.timestamp, read.payload.length], [PCM16, true, 2, 960, 960]);
  const padded = Uint8Array.of(0xb1, 96, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 1, 1, 1, 1, 0xbe, 0xde, 0, 1, 5, 5, 5, 5, 42, 43, 0, 2);
  assert.deepEqual([...readRtp(padded)!.payload], [42, 43]);
  for (let end = 0; end < padded.length; end++) readRtp(padded.subarray(0, end));
  assert.equal(readRtp(Uint8Array.of(0x80, 96)), undefined);
  assert.equal(extend(5, 2 ** 32 - 10), 2 ** 32 + 5);
});

test('packets that overtake each other are put in order', () => {
  const { out, order } = ordered();
  for (const pos of [0, 480, 1440, 960, 960, 480, 1920]) order.push(packet(pos, pos + 1));
  assert.deepEqual(out.map(([pos]) => pos), [0, 480, 960, 1440, 1920]);
  assert.equal(order.concealed, 0);
  order.close();
});

test('a lost packet is silence after a while, and nothing that comes too late is played', async () => {
  const { out, order } = ordered();
  order.push(packet(0, 1));
  order.push(packet(960, 1));
  assert.equal(out.length, 1);
  await tick(60);
  assert.deepEqual(out.slice(1), [[480, 0, 480], [960, 1, 480]]);
  order.push(packet(480, 1));
  assert.equal(out.length, 3);
  assert.equal(order.concealed, 480);
  order.close();
});

test('a pause of the sender is no loss, and void audio is thrown away', () => {
  const { out, order } = ordered();
  order.push(packet(0, 1, true));
  order.push(packet(24_000, 1, true));
  assert.equal(order.concealed, 0);
  order.push(packet(24_960, 1));
  order.flush(48_000);
  order.push(packet(24_480, 1));
  assert.equal(out.length, 2);
  order.push(packet(48_000, 1, true));
  assert.deepEqual(out.at(-1), [48_000, 1, 480]);
  order.close();
});

/** A relay at the other end of streams. */
class StubLink {
  static last: StubLink;
  static refuse = false;
  static datagrams = true;
  streams: { said: Uint8Array[]; relay: ReadableStreamDefaultController<Uint8Array> }[] = [];
  said: Uint8Array[] = [];
  heard: Uint8Array[] = [];
  closedWith: number | undefined;
  ready: Promise<void>;
  closed: Promise<{ closeCode: number; reason: string }>;
  private relay: ReadableStreamDefaultController<Uint8Array> | undefined;
  incoming!: ReadableStreamDefaultController<Uint8Array>;
  private end!: (info: { closeCode: number; reason: string }) => void;
  datagrams: object | undefined;
  constructor(
    readonly url: string,
    readonly options: WebTransportOptions,
  ) {
    StubLink.last = this;
    this.ready = StubLink.refuse ? new Promise(() => undefined) : Promise.resolve();
    this.closed = new Promise((resolve) => (this.end = resolve));
    if (!StubLink.datagrams) return;
    this.datagrams = {
      maxDatagramSize: 1200,
      readable: new ReadableStream({ start: (controller) => void (this.incoming = controller) }),
      writable: new WritableStream({ write: (bytes: Uint8Array) => void this.heard.push(bytes) }, { highWaterMark: 25 }),
    };
  }
  async createBidirectionalStream() {
    let relay!: ReadableStreamDefaultController<Uint8Array>;
    const readable = new ReadableStream({ start: (controller) => void (relay = controller) });
    const said = this.streams.length === 0 ? this.said : [];
    this.relay ??= relay;
    this.streams.push({ said, relay });
    return { readable, writable: new WritableStream({ write: (bytes: Uint8Array) => void said.push(bytes) }) };
  }
  say(message: object) {
    const text = new TextEncoder().encode(JSON.stringify(message));
    const bytes = concat(encodeVarint(text.length), text);
    // In pieces, as streams give it.
    this.relay!.enqueue(bytes.subarray(0, 1));
    this.relay!.enqueue(bytes.subarray(1));
  }
  close({ closeCode }: { closeCode: number }) {
    this.closedWith = closeCode;
  }
  lose() {
    this.relay!.close();
    this.end({ closeCode: 1012, reason: 'draining' });
  }
}
const Link = StubLink as unknown as typeof WebTransport;
const quiet: CarrierEvents = { onMessage: () => undefined, onReport: () => undefined, onAudio: () => undefined, onClosed: () => undefined };

test('a WebTransport call says start on its first stream, and speaks in datagrams', async () => {
  const audio = new StubAudio();
  const closed: number[] = [];
  const seen: string[] = [];
  const events = { ...quiet, onMessage: ({ type }: { type: string }) => seen.push(type), onClosed: (code: number) => closed.push(code) };
  const open = webTransportOpener({ url: 'https://relay:8083/v1/session', certificate: '0aff', audio, WebTransport: Link });
  const opening = open({ type: 'start', agent: 'echo' }, events);
  await tick(5);
  const link = StubLink.last;
  assert.deepEqual([...new Uint8Array(link.options.serverCertificateHashes![0]!.value as ArrayBuffer)], [0x0a, 0xff]);
  assert.deepEqual([...link.said[0]!], [0, 1], 'a control stream of flow 1');
  const size = decodeVarint(link.said[1]!)!;
  assert.equal(JSON.parse(new TextDecoder().decode(link.said[1]!.subarray(size.end))).audio.in.codec, 'pcm16');
  link.say({ type: 'started', ...started() });
  link.say({ type: 'state', from: 'idle', to: 'listening' });
  const { carrier, started: answer } = await opening;
  assert.equal(answer.resume_token, 'r-1');
  await tick(5);
  assert.deepEqual(seen, ['state'], 'what comes with `started` is not lost');

  audio.onFrame!(new Int16Array(480).fill(3).buffer);
  carrier.setMicrophoneEnabled(false);
  audio.onFrame!(new Int16Array(480).buffer);
  carrier.setMicrophoneEnabled(true);
  audio.onFrame!(new Int16Array(480).buffer);
  await tick(5);
  const sent = link.heard.map((bytes) => readRtp(bytes.subarray(1))!);
  assert.deepEqual(sent.map(({ seq, timestamp, marker }) => [seq, timestamp, marker]), [[0, 0, true], [1, 960, true]]);

  link.incoming.enqueue(writeRtp(encodeVarint(1), packet(4800, 5, true), 9));
  link.incoming.enqueue(writeRtp(encodeVarint(2), packet(9600, 5, true), 9));
  await tick(5);
  const played = audio.port.commands.flatMap((command) => (command.type === 'audio' ? [[command.pos, command.samples[0]]] : []));
  assert.deepEqual(played, [[4800, 5]], 'another flow is not ours');

  link.lose();
  await tick(5);
  assert.deepEqual(closed, [1012]);
  assert.equal(link.closedWith, 4000, 'the session can be resumed');
});

test('where there are no datagrams audio has a stream, and the next one when the relay gives that up', async () => {
  StubLink.datagrams = false;
  const audio = new StubAudio();
  const opening = webTransportOpener({ url: 'https://relay', audio, WebTransport: Link })({ type: 'start' }, quiet);
  await tick(5);
  const link = StubLink.last;
  const speak = (value: number) => audio.onFrame!(new Int16Array(480).fill(value).buffer);
  const spoken = (stream: number) => {
    const bytes = link.streams[stream]!.said.reduce((all, some) => concat(all, some));
    const length = decodeVarint(bytes, 2)!;
    return { prelude: [...bytes.subarray(0, 2)], seq: readRtp(bytes.subarray(length.end, length.end + length.value))!.seq };
  };
  assert.equal(link.streams.length, 2, 'it is open when the relay hears of the call');
  link.say({ type: 'started', ...started() });
  const { carrier } = await opening;
  await tick(5);
  speak(1);
  await tick(5);
  assert.deepEqual(spoken(1), { prelude: [1, 1], seq: 0 }, 'an audio stream of flow 1');
  const answer = writeRtp(encodeVarint(972), packet(0, 5, true), 9);
  link.streams[1]!.relay.enqueue(answer.subarray(0, 100));
  link.streams[1]!.relay.enqueue(answer.subarray(100));
  await tick(5);
  link.streams[1]!.relay.error(new Error('reset'));
  await tick(5);
  speak(2);
  link.streams[2]!.relay.enqueue(writeRtp(encodeVarint(972), packet(480, 6), 9));
  await tick(5);
  assert.deepEqual(spoken(2), { prelude: [1, 1], seq: 1 });
  const played = audio.port.commands.flatMap((command) => (command.type === 'audio' ? [[command.pos, command.samples[0]]] : []));
  assert.deepEqual(played, [[0, 5], [480, 6]]);
  carrier.close(1000);
  StubLink.datagrams = true;
});

test('a path that lets no UDP through is given up', async () => {
  StubLink.refuse = true;
  const open = webTransportOpener({ url: 'https://relay', audio: new StubAudio(), WebTransport: Link });
  await assert.rejects(open({ type: 'start' }, quiet), { code: 'transport_unavailable' });
  assert.equal(StubLink.last.closedWith, 4000);
  StubLink.refuse = false;
});
