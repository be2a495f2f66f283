import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CarrierEvents } from '../src/carrier.js';
import { connect } from '../src/connect.js';
import { choose, fetchEndpoints } from '../src/endpoints.js';
import { AntiphonError } from '../src/errors.js';
import { withNack } from '../src/sdp.js';
import { webRtcOpener } from '../src/webrtc.js';
import { webSocketOpener } from '../src/websocket.js';
import { isTrusted } from '../src/webtransport.js';
import { started, StubAudio, tick } from './stubs.js';

class StubSocket {
  static all: StubSocket[] = [];
  static refuse = false;
  readyState = 1;
  bufferedAmount = 0;
  binaryType = '';
  sent: unknown[] = [];
  closedWith: number | undefined;
  onopen: (() => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    StubSocket.all.push(this);
    queueMicrotask(() => {
      if (StubSocket.refuse) return this.onclose?.({ code: 1006, reason: '' });
      this.onopen?.();
      this.say({ type: 'started', ...started() });
    });
  }
  say(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  send(data: unknown): void {
    this.sent.push(data);
  }
  close(code: number): void {
    this.closedWith = code;
  }
}
const Socket = StubSocket as unknown as typeof WebSocket;

class StubPeer {
  static last: StubPeer;
  static path: RTCPeerConnectionState = 'connected';
  /** By the pairs of candidates. */
  static received: number[] = [];
  connectionState: RTCPeerConnectionState = 'new';
  localDescription: { sdp: string } | undefined;
  remote = '';
  closed = false;
  direction = '';
  signalling: string[] = [];
  onconnectionstatechange: (() => void) | null = null;
  ontrack: ((event: { track: unknown }) => void) | null = null;
  channel = {
    readyState: 'connecting',
    sent: [] as string[],
    onopen: null as (() => void) | null,
    onclose: null,
    onmessage: null as ((event: { data: unknown }) => void) | null,
    send(text: string) {
      this.sent.push(text);
    },
  };
  constructor() {
    StubPeer.last = this;
  }
  addTransceiver(_track: unknown, { direction }: { direction: string }) {
    this.direction = direction;
    return { receiver: { getSynchronizationSources: () => [] } };
  }
  createDataChannel() {
    return this.channel;
  }
  get remoteDescription() {
    return { sdp: this.remote };
  }
  async createOffer({ iceRestart = false } = {}) {
    const ice = `a=ice-ufrag:${iceRestart ? 'new1' : 'old1'}\r\na=ice-pwd:${iceRestart ? 'new2' : 'old2'}\r\n`;
    const media = 'm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\n';
    return { sdp: `v=0\r\n${media}${ice}` };
  }
  async setLocalDescription(description: { sdp: string; type?: string }) {
    this.signalling.push(description.type!);
    this.localDescription = description;
  }
  async setRemoteDescription({ sdp, type }: { sdp: string; type: string }) {
    this.signalling.push(type);
    this.remote = sdp;
    this.change(StubPeer.path);
  }
  setConfiguration() {}
  async getStats() {
    return new Map(StubPeer.received.map((bytesReceived, i) => [i, { type: 'candidate-pair', bytesReceived }]));
  }
  change(state: RTCPeerConnectionState) {
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }
  close() {
    this.closed = true;
  }
}
const Peer = StubPeer as unknown as typeof RTCPeerConnection;

const quiet: CarrierEvents = { onMessage: () => undefined, onReport: () => undefined, onAudio: () => undefined, onClosed: () => undefined };

function relay(answers: Record<string, unknown>): { fetch: typeof fetch; posted: RequestInit[] } {
  const posted: RequestInit[] = [];
  const get = async (input: unknown, init?: RequestInit) => {
    const answer = answers[new URL(String(input)).pathname];
    if (init?.method === 'POST') posted.push(init);
    return answer ? Response.json(answer) : Response.json({ code: 'not_found', detail: 'nothing here' }, { status: 404 });
  };
  return { fetch: get as typeof fetch, posted };
}

test('over WebSocket frames of the microphone go out, and a slow network drops them', async () => {
  const audio = new StubAudio();
  const { carrier } = await webSocketOpener({ url: 'ws://relay/v1/session', audio, WebSocket: Socket })({ type: 'start' }, quiet);
  const socket = StubSocket.all.at(-1)!;
  assert.deepEqual(socket.protocols, ['antiphon.v1']);
  assert.deepEqual(JSON.parse(socket.sent[0] as string).audio.in, { codec: 'pcm16', rate: 24_000 });
  const frame = new ArrayBuffer(960);
  audio.onFrame!(frame);
  assert.equal(socket.sent.at(-1), frame);
  socket.bufferedAmount = 100_000;
  audio.onFrame!(frame);
  assert.equal(carrier.droppedMs, 20);
  carrier.setMicrophoneEnabled(false);
  socket.bufferedAmount = 0;
  audio.onFrame!(frame);
  assert.equal(socket.sent.length, 2);
});

test('a refusal of the relay is the error of the attempt', async () => {
  const opening = webSocketOpener({ url: 'ws://relay', audio: new StubAudio(), WebSocket: Socket })({ type: 'start' }, quiet);
  const socket = StubSocket.all.at(-1)!;
  socket.onopen = null;
  const { onmessage } = socket;
  socket.onmessage = ({ data }) => String(data).includes('"error"') && onmessage?.({ data });
  socket.say({ type: 'error', code: 'not_found', message: 'there is no agent `x`', retryable: false });
  await tick();
  socket.onclose?.({ code: 4404, reason: '' });
  await assert.rejects(opening, (error: AntiphonError) => error.code === 'not_found' && !error.retryable);
});

test('the offer asks for retransmission of audio, once', () => {
  const offer = 'a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10\r\n';
  const asked = withNack(offer);
  assert.equal(asked, 'a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 nack\r\na=fmtp:111 minptime=10\r\n');
  assert.equal(withNack(asked), asked);
  assert.equal(withNack('v=0\r\n'), 'v=0\r\n');
});

test('a WebRTC call posts offer and start, and sends what waited for the channel', async () => {
  StubPeer.path = 'connected';
  const { fetch, posted } = relay({ '/v1/session/webrtc': { sdp: 'answer', started: started() } });
  const open = webRtcOpener({ url: 'https://relay/v1/session/webrtc', audio: new StubAudio(), fetch, RTCPeerConnection: Peer });
  const { carrier } = await open({ type: 'start', agent: 'echo', token: 'secret' }, quiet);
  const body = JSON.parse(posted[0]!.body as string);
  assert.match(body.sdp, /nack/);
  assert.equal(body.start.agent, 'echo');
  assert.equal(body.start.token, undefined);
  assert.equal((posted[0]!.headers as Record<string, string>)['authorization'], 'Bearer secret');
  const { channel } = StubPeer.last;
  carrier.send({ type: 'ping', t: 1 });
  assert.equal(channel.sent.length, 0);
  channel.readyState = 'open';
  channel.onopen!();
  assert.deepEqual(channel.sent, ['{"type":"ping","t":1}']);
  carrier.close(1000);
  assert.equal(StubPeer.last.closed, true);
});

test('where a session is resumed, `started` comes on the data channel, and nothing before it is lost', async () => {
  StubPeer.path = 'connected';
  const { fetch } = relay({ '/v1/session/webrtc': { sdp: 'answer' } });
  const seen: string[] = [];
  const open = webRtcOpener({ url: 'https://relay/v1/session/webrtc', audio: new StubAudio(), fetch, RTCPeerConnection: Peer });
  const opening = open({ type: 'start', resume: 'r-1' }, { ...quiet, onMessage: ({ type }) => seen.push(type) });
  await tick(5);
  const { channel } = StubPeer.last;
  channel.onmessage!({ data: '{"type":"state","from":"idle","to":"listening"}' });
  channel.onmessage!({ data: JSON.stringify({ type: 'started', ...started({ resume_token: 'r-2' }) }) });
  const { carrier, started: answer } = await opening;
  assert.equal(answer.resume_token, 'r-2');
  await tick(5);
  channel.onmessage!({ data: '{"type":"pong","t":1}' });
  assert.deepEqual(seen, ['state', 'pong']);
  carrier.close(1000);
});

test('what the relay says before the path is known to stand is not lost', async (t) => {
  StubPeer.path = 'connecting';
  const { fetch } = relay({ '/v1/endpoints': { webrtc: 'https://relay/v1/session/webrtc' }, '/v1/session/webrtc': { sdp: 'answer', started: started() } });
  const options = { url: 'https://relay', transport: ['webrtc' as const] };
  const connecting = connect(options, { fetch, RTCPeerConnection: Peer, openAudio: async () => new StubAudio() });
  await tick(5);
  const { last: peer } = StubPeer;
  const line = { type: 'transcript', item: 'a-1', turn: 1, role: 'agent', text: 'Hello', final: true, start_ms: 0, seq: 1 };
  peer.channel.onmessage!({ data: JSON.stringify(line) });
  await tick(5);
  peer.change('connected');
  const session = await connecting;
  t.after(() => peer.channel.onmessage!({ data: '{"type":"ended","reason":"operator","duration_ms":1,"messages":0}' }));
  const heard: string[] = [];
  session.on('transcript', ({ text }) => heard.push(text!));
  await tick(5);
  peer.channel.onmessage!({ data: JSON.stringify({ ...line, text: 'Hello again', seq: 2 }) });
  assert.deepEqual(heard, ['Hello', 'Hello again']);
});

test('a call that is refused on the data channel fails with the reason', async () => {
  StubPeer.path = 'connected';
  const { fetch } = relay({ '/v1/session/webrtc': { sdp: 'answer' } });
  const open = webRtcOpener({ url: 'https://relay/v1/session/webrtc', audio: new StubAudio(), fetch, RTCPeerConnection: Peer });
  const opening = open({ type: 'start' }, quiet);
  const refused = assert.rejects(opening, { code: 'forbidden', message: 'Pay up', reason: 'hook_refused' });
  await tick(5);
  const error = { type: 'error', code: 'forbidden', message: 'Pay up', reason: 'hook_refused', retryable: false };
  StubPeer.last.channel.onmessage!({ data: JSON.stringify(error) });
  await refused;
  assert.equal(StubPeer.last.closed, true);
});

test('a lost path ends the link, so that the session can be resumed', async () => {
  StubPeer.path = 'connected';
  const { fetch } = relay({ '/v1/session/webrtc': { sdp: 'answer', started: started() } });
  const closed: number[] = [];
  const open = webRtcOpener({ url: 'https://relay/v1/session/webrtc', audio: new StubAudio(), fetch, RTCPeerConnection: Peer });
  await open({ type: 'start' }, { ...quiet, onClosed: (code) => closed.push(code) });
  StubPeer.last.change('disconnected');
  StubPeer.last.change('connected');
  assert.deepEqual(closed, []);
  StubPeer.last.change('failed');
  assert.deepEqual(closed, [1006]);
});

test('a path that is interrupted is looked for anew, and the link stays', async () => {
  StubPeer.path = 'connected';
  const asked: RequestInit[] = [];
  let status = 503;
  const get = async (input: unknown, init?: RequestInit) => {
    const answer = 'a=ice-ufrag:ours1\r\na=ice-pwd:ours2\r\na=candidate:1 1 udp 1 192.0.2.1 8082 typ host ufrag ours1\r\n';
    if (init?.method === 'POST') {
      const headers = { location: '/v1/session/webrtc/r-1' };
      return Response.json({ sdp: answer, started: started() }, { headers });
    }
    assert.equal(String(input), 'https://relay/v1/session/webrtc/r-1');
    asked.push(init!);
    return new Response('a=ice-ufrag:ours3\r\na=ice-pwd:ours4\r\n', { status });
  };
  const closed: number[] = [];
  const open = webRtcOpener({ url: 'https://relay/v1/session/webrtc', audio: new StubAudio(), fetch: get as typeof fetch, RTCPeerConnection: Peer });
  const { carrier } = await open({ type: 'start' }, { ...quiet, onClosed: (code) => closed.push(code) });
  const peer = StubPeer.last;
  const until = async (steps: number) => {
    for (const end = Date.now() + 10_000; peer.signalling.length < steps && Date.now() < end; ) await tick(5);
    return peer.signalling.splice(0);
  };
  peer.change('disconnected');
  assert.deepEqual(await until(4), ['offer', 'answer', 'offer', 'rollback'], 'the relay did not agree');
  status = 200;
  StubPeer.received = [1000];
  assert.deepEqual(await until(2), ['offer', 'answer'], 'nothing comes, and it is asked again');
  const { method, headers, body } = asked.at(-1)!;
  assert.deepEqual([method, (headers as Record<string, string>)['if-match']], ['PATCH', '*']);
  assert.equal(body, 'a=ice-ufrag:new1\r\na=ice-pwd:new2\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n');
  assert.match(peer.localDescription!.sdp, /nack/, 'what was agreed stays');
  assert.equal(peer.remote, 'a=ice-ufrag:ours3\r\na=ice-pwd:ours4\r\na=candidate:1 1 udp 1 192.0.2.1 8082 typ host\r\n');
  assert.deepEqual(closed, []);
  status = 404;
  carrier.onNetworkChange!();
  for (const end = Date.now() + 10_000; closed.length === 0 && Date.now() < end; ) await tick(5);
  assert.deepEqual(closed, [1006], 'the relay does not know it any more');
  StubPeer.received = [];
});

test('where WebRTC finds no path the call goes over WebSocket', async () => {
  StubPeer.path = 'failed';
  const { fetch } = relay({
    '/v1/endpoints': { websocket: 'ws://relay/v1/session', webrtc: 'http://relay/v1/session/webrtc' },
    '/v1/session/webrtc': { sdp: 'answer', started: started() },
  });
  const environment = { fetch, WebSocket: Socket, RTCPeerConnection: Peer, openAudio: async () => new StubAudio() };
  const session = await connect({ url: 'http://relay' }, environment);
  assert.equal(session.transport, 'websocket');
  assert.equal(StubPeer.last.closed, true);
  StubSocket.all.at(-1)!.say({ type: 'ended', reason: 'operator', duration_ms: 1, messages: 0 });
});

test('a relay that cannot be reached gives the microphone back', async () => {
  StubSocket.refuse = true;
  const audio = new StubAudio();
  const { fetch } = relay({ '/v1/endpoints': { websocket: 'ws://relay/v1/session' } });
  const attempt = connect({ url: 'http://relay' }, { fetch, WebSocket: Socket, openAudio: async () => audio });
  await assert.rejects(attempt, { code: 'unreachable' });
  assert.equal(audio.closed, true);
  StubSocket.refuse = false;
});

test('of the transports those are tried that both ends have', () => {
  const webtransport = { url: 'https:' };
  const all = { websocket: 'ws:', webrtc: 'http:', webtransport };
  const any = (): boolean => true;
  assert.deepEqual(choose('auto', all, any), ['webtransport', 'webrtc', 'websocket']);
  assert.deepEqual(choose('auto', all, (name) => name !== 'webtransport'), ['webrtc', 'websocket']);
  assert.deepEqual(choose('auto', { websocket: 'ws:' }, any), ['websocket']);
  assert.deepEqual(choose('webrtc', all, any), ['webrtc', 'websocket']);
  assert.deepEqual(choose('webtransport', { websocket: 'ws:', webtransport }, any), ['webtransport', 'websocket']);
  assert.deepEqual(choose(['websocket', 'webrtc'], all, any), ['websocket', 'webrtc']);
  assert.deepEqual(choose('websocket', all, any), ['websocket']);
  assert.deepEqual(choose('auto', {}, any), []);
});

test('browsers whose WebTransport freezes do not use it', () => {
  const chrome = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36';
  const safari = 'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.4 Safari/605.1.15';
  const onPhone = 'Mozilla/5.0 (iPhone; CPU iPhone OS 26_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/156.0 Mobile/15E148 Safari/604.1';
  const firefox = 'Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0';
  assert.deepEqual([chrome, safari, onPhone, firefox].map(isTrusted), [true, false, false, true]);
});

test('a hash is pinned only if nobody on the way could have written it', async () => {
  const { fetch } = relay({ '/v1/endpoints': { webtransport: { url: 'https://relay:8083/v1/session', cert_sha256: 'ab' } } });
  for (const [base, kept] of [['https://relay', true], ['http://127.0.0.1:8080', true], ['http://localhost', true], ['http://relay', false]] as const) {
    assert.equal((await fetchEndpoints(base, fetch)).webtransport !== undefined, kept, base);
  }
});

test('a relay that refuses the offer is called over WebSocket, unless it is the caller who is refused', async () => {
  for (const [code, over] of [['overloaded', true], ['bad_offer', true], ['not_found', false], ['unauthorized', false]] as const) {
    const get = async (input: unknown, init?: RequestInit) =>
      init?.method === 'POST'
        ? Response.json({ code, detail: 'no' }, { status: 503 })
        : Response.json(String(input).endsWith('/endpoints') ? { websocket: 'ws://relay/v1/session', webrtc: 'http://relay/rtc' } : {});
    const environment = { fetch: get as typeof fetch, WebSocket: Socket, RTCPeerConnection: Peer, openAudio: async () => new StubAudio() };
    const attempt = connect({ url: 'http://relay' }, environment);
    if (!over) {
      await assert.rejects(attempt, { code });
      continue;
    }
    assert.equal((await attempt).transport, 'websocket');
    StubSocket.all.at(-1)!.say({ type: 'ended', reason: 'operator', duration_ms: 1, messages: 0 });
  }
});

test('a session that another node has is followed there', async () => {
  const asked: string[] = [];
  const get = async (input: unknown, init?: RequestInit) => {
    const url = String(input);
    asked.push(`${init?.method ?? 'GET'} ${url}`);
    const { origin } = new URL(url);
    if (url.endsWith('/endpoints')) return Response.json({ webrtc: `${origin}/rtc` });
    if (origin === 'http://near') return Response.json({ code: 'misdirected', detail: 'there', url: 'http://far' }, { status: 421 });
    return Response.json({ sdp: 'answer', started: started() });
  };
  StubPeer.path = 'connected';
  const environment = { fetch: get as typeof fetch, RTCPeerConnection: Peer, openAudio: async () => new StubAudio() };
  const session = await connect({ url: 'http://near', transport: ['webrtc'] }, environment);
  assert.deepEqual(asked.map((line) => line.replace('/v1/endpoints', '')), ['GET http://near', 'POST http://near/rtc', 'GET http://far', 'POST http://far/rtc']);
  assert.equal(session.transport, 'webrtc');
  await session.end();
});

test('on a secure page addresses are secure, whatever the relay behind its proxy believes', async () => {
  const { fetch } = relay({ '/v1/endpoints': { websocket: 'ws://relay/v1/session', webrtc: 'http://relay/v1/session/webrtc' } });
  const found = await fetchEndpoints('https://relay', fetch);
  assert.deepEqual(found, { websocket: 'wss://relay/v1/session', webrtc: 'https://relay/v1/session/webrtc' });
});
