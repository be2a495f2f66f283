import assert from 'node:assert/strict';
import { test } from 'node:test';
import { delayBefore, LONGEST_MS } from '../src/backoff.js';
import { AntiphonError } from '../src/errors.js';
import { Lifeline, PING_MS, SILENCE_MS } from '../src/lifeline.js';
import { Session } from '../src/session.js';
import type { SessionEvents } from '../src/session_events.js';
import { opener, StubAudio, tick } from './stubs.js';

async function talk(getToken?: () => string) {
  const relay = opener();
  const audio = new StubAudio();
  const session = new Session({ open: relay.open, audio, start: { type: 'start', agent: 'echo' }, reconnectForMs: 2000, getToken });
  await session.begin();
  const seen: [keyof SessionEvents, unknown][] = [];
  for (const name of ['state', 'transcript', 'heard', 'flush', 'error', 'reconnecting', 'reconnected', 'ended'] as const) {
    session.on(name, (event) => seen.push([name, event]));
  }
  const names = (): string[] => seen.map(([name]) => name);
  return { relay, audio, session, seen, names, link: () => relay.links.at(-1)! };
}

const end = async ({ session, link }: Awaited<ReturnType<typeof talk>>): Promise<void> => {
  const ended = session.end();
  link().say({ type: 'ended', reason: 'client_hangup', duration_ms: 10, messages: 0 });
  await ended;
};

test('messages of the relay are events', async () => {
  const call = await talk();
  call.link().say({ type: 'state', from: 'idle', to: 'listening', seq: 1 });
  call.link().say({ type: 'error', code: 'bad_message', message: 'no', retryable: false, seq: 2 });
  assert.deepEqual(call.seen[0], ['state', { from: 'idle', to: 'listening', seq: 1 }]);
  assert.ok(call.seen[1]![1] instanceof AntiphonError);
  await end(call);
});

test('a flush is answered with the position of the last sample heard', async () => {
  const call = await talk();
  call.link().playback.pos = 2 ** 32 + 77;
  call.link().say({ type: 'flush', id: 9, turn: 1, valid_from: 5 });
  await tick();
  assert.deepEqual(call.link().sent.at(-1), { type: 'playout', pos: 77, flush: 9 });
  await end(call);
});

test('an interruption silences the speaker before the relay knows of it', async () => {
  const call = await talk();
  call.session.interrupt();
  assert.equal(call.link().playback.stopped, true);
  assert.deepEqual(call.link().sent.at(-1), { type: 'interrupt', pos: 4800 });
  await end(call);
});

test('an interruption that can be taken back silences the speaker once', async () => {
  const call = await talk();
  call.session.interrupt('pause');
  assert.equal(call.link().playback.stopped, true);
  assert.deepEqual(call.link().sent.at(-1), { type: 'interrupt', pos: 4800, action: 'pause' });
  call.link().say({ type: 'flush', id: 3, turn: 1, valid_from: 9600, pause: true });
  assert.deepEqual(call.seen.at(-1), ['flush', { id: 3, turn: 1, valid_from: 9600, pause: true }]);
  call.link().playback.stopped = false;
  for (const action of ['resume', 'confirm'] as const) {
    call.session.interrupt(action);
    assert.deepEqual(call.link().sent.at(-1), { type: 'interrupt', action });
  }
  assert.equal(call.link().playback.stopped, false);
  await end(call);
});

test('a lost link is resumed with its token and what was received', async () => {
  const call = await talk();
  call.link().say({ type: 'state', from: 'idle', to: 'listening', seq: 41 });
  call.relay.answer = { resumed: true };
  call.link().events.onClosed(1006, '');
  await tick(20);
  assert.deepEqual(call.link().start, { type: 'start', resume: 'r-1', have: 41 });
  assert.deepEqual(call.names(), ['state', 'reconnecting', 'reconnected']);
  call.link().events.onClosed(1012, 'draining');
  await tick(20);
  assert.deepEqual(call.link().start, { type: 'start', resume: 'r-2', have: 41 });
  await end(call);
});

test('after a snapshot only what follows counts as received', async () => {
  const call = await talk();
  call.link().say({ type: 'state', from: 'idle', to: 'listening', seq: 300 });
  call.relay.answer = { resumed: false };
  call.link().events.onClosed(1006, '');
  await tick(20);
  call.link().say({ type: 'state', from: 'idle', to: 'listening', seq: 301 });
  call.link().events.onClosed(1006, '');
  await tick(20);
  assert.equal(call.link().start.have, 301);
  await end(call);
});

test('attempts go on after failures that may pass, and end at one that will not', async () => {
  const call = await talk();
  call.relay.refuse = [new AntiphonError('unreachable', 'no', true), new AntiphonError('resume_failed', 'too late')];
  call.link().events.onClosed(1006, '');
  await tick(600);
  assert.deepEqual(call.names(), ['reconnecting', 'reconnecting', 'error', 'ended']);
  assert.equal(call.audio.closed, true);
});

test('a network that comes back is used at once', async () => {
  const call = await talk();
  call.relay.refuse = [1, 2, 3].map(() => new AntiphonError('unreachable', 'no', true));
  call.link().events.onClosed(1006, '');
  await tick(10);
  for (let i = 0; i < 3; i++) {
    call.session.onNetworkChange();
    await tick(5);
  }
  assert.equal(call.relay.links.length, 2);
  await end(call);
});

test('a link that ended for good is not resumed', async () => {
  for (const code of [1000, 4401, 4404, 4409, 4429]) {
    const call = await talk();
    call.link().events.onClosed(code, '');
    await tick();
    assert.equal(call.relay.links.length, 1);
    assert.equal(call.names().at(-1), 'ended', `after ${code}`);
  }
});

test('a draining node is left for another while it still speaks', async () => {
  const call = await talk();
  const first = call.link();
  first.say({ type: 'draining', reconnect_after_ms: 5, deadline_ms: 30_000, seq: 3 });
  await tick(30);
  assert.equal(call.relay.links.length, 2);
  assert.equal(first.closedWith, 4000);
  assert.deepEqual(call.names(), ['reconnected']);
  first.events.onClosed(4409, 'taken over');
  assert.deepEqual(call.names(), ['reconnected'], 'what the old link says no longer counts');
  await end(call);
});

test('a token is asked for at each link', async () => {
  let asked = 0;
  const call = await talk(() => `t-${++asked}`);
  call.link().events.onClosed(1006, '');
  await tick(20);
  assert.deepEqual(call.relay.links.map(({ start }) => start.token), ['t-1', 't-2']);
  await end(call);
});

test('a muted microphone stays muted over a new link', async () => {
  const call = await talk();
  call.session.setMicrophoneEnabled(false);
  assert.deepEqual(call.link().sent.at(-1), { type: 'mic', on: false });
  assert.equal(call.audio.microphone, false);
  call.link().events.onClosed(1006, '');
  await tick(20);
  assert.ok(call.link().sent.some((message) => message.type === 'mic' && !message.on));
  await end(call);
});

test('statistics join both ends', async () => {
  const call = await talk();
  const wanted = call.session.stats();
  const figures = { up: { p50: 0.4, p99: 1 }, down: { p50: 0.5, p99: 2 } };
  call.link().say({ type: 'stats', added_ms: figures, lost: 0, concealed_ms: 0, filled_ms: 0, heard_ms: 7 });
  const stats = await wanted;
  assert.equal(stats.relay.added_ms.up.p50, 0.4);
  assert.equal(stats.transport, 'websocket');
  await end(call);
});

test('a listener that throws does not harm the call', async () => {
  const call = await talk();
  const reported: unknown[] = [];
  globalThis.reportError = (error) => reported.push(error);
  call.session.on('state', () => {
    throw new Error('of the listener');
  });
  call.link().say({ type: 'state', from: 'idle', to: 'listening', seq: 1 });
  assert.equal((reported[0] as Error).message, 'of the listener');
  await end(call);
});

test('attempts come later and later, and never together', () => {
  assert.equal(delayBefore(1), 0);
  assert.deepEqual([2, 3, 4].map((attempt) => delayBefore(attempt, 0)), [250, 500, 1000]);
  assert.equal(delayBefore(2, 1), 125);
  assert.equal(delayBefore(50, 0), LONGEST_MS);
});

test('a silent link is lost, a sleeping page is not', () => {
  const seen: string[] = [];
  const lifeline = new Lifeline({ onPing: () => seen.push('ping'), onLost: () => seen.push('lost') }, 0);
  lifeline.onPong(1_500_000, 1512);
  assert.equal(lifeline.rttMs, 12);
  for (let now = PING_MS; now <= SILENCE_MS; now += PING_MS) lifeline.tick(now);
  assert.deepEqual(seen, ['ping', 'ping', 'ping']);
  lifeline.tick(SILENCE_MS + 1000);
  assert.equal(seen.at(-1), 'lost');
  lifeline.tick(100_000);
  assert.equal(seen.at(-1), 'ping', 'a timer that came so late says nothing about the link');
});
