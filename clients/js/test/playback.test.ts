import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Report } from '../src/carrier.js';
import { PcmPlayback } from '../src/pcm_playback.js';
import { audibleTime, PlayoutClock } from '../src/playout_clock.js';
import { since, TrackPlayback } from '../src/track_playback.js';
import { StubPort, tick } from './stubs.js';

const frame = (samples = 480): ArrayBuffer => new Int16Array(samples).buffer;

function pcm() {
  const port = new StubPort();
  const output = { currentTime: 0, outputLatency: 0.05, baseLatency: 0, sampleRate: 48_000 };
  const reports: Report[] = [];
  const heard: number[] = [];
  let now = 0;
  const events = { onReport: (report: Report) => reports.push(report), onAudio: (_: Int16Array, pos: number) => heard.push(pos) };
  const playback = new PcmPlayback(port, output, 24_000, events, () => now);
  return { port, output, reports, heard, playback, at: (ms: number) => ((now = ms), (output.currentTime = ms / 1000)) };
}

test('a report names the sample that leaves the speaker, not the one that is rendered', () => {
  const { port, playback, reports, at } = pcm();
  for (let i = 0; i < 50; i++) playback.onFrame(frame());
  at(1000);
  port.tell({ type: 'begin', frame: 48_000, pos: 0 });
  at(1100);
  port.tell({ type: 'progress', frame: 52_800, pos: 2400, buffered: 21_600 });
  // 100 ms are rendered, the last 50 ms of them are still on their way to the ear.
  assert.deepEqual(reports, [{ pos: 1200, bufferedMs: 950 }]);
});

test('when the sound has run out, the last report says that all was heard', async () => {
  const { port, playback, reports, at } = pcm();
  playback.onFrame(frame());
  at(1000);
  port.tell({ type: 'begin', frame: 48_000, pos: 0 });
  at(1020);
  port.tell({ type: 'stop', frame: 48_960, pos: 480, cause: 'dry', starved: false });
  at(1075);
  await tick(80);
  assert.deepEqual(reports.at(-1), { pos: 480, bufferedMs: 0 });
});

test('between a local stop and the relay’s flush audio is counted and thrown away', async () => {
  const { port, playback, heard, at } = pcm();
  playback.onFrame(frame());
  playback.stop();
  playback.onFrame(frame());
  assert.deepEqual(heard, [0]);
  const flushed = playback.flush({ id: 1, turn: 1, valid_from: 960 });
  port.tell({ type: 'stop', frame: 300, pos: 333, cause: 'flush', starved: false });
  assert.equal(await flushed, 333);
  playback.onFrame(frame());
  assert.deepEqual(heard, [0, 960]);
  playback.stop();
  at(1500);
  playback.onFrame(frame());
  assert.deepEqual(heard, [0, 960, 1440], 'a stop without a flush does not silence for ever');
});

test('a stop with nothing to stop does not swallow the next answer', () => {
  const { port, playback, heard } = pcm();
  playback.onFrame(frame());
  port.tell({ type: 'begin', frame: 0, pos: 0 });
  port.tell({ type: 'stop', frame: 960, pos: 480, cause: 'dry', starved: false });
  playback.stop();
  playback.onFrame(frame());
  assert.deepEqual(heard, [0, 480]);
  playback.close();
});

test('the clock follows runs of sound over gaps', () => {
  const clock = new PlayoutClock(24_000, 48_000);
  assert.equal(clock.positionAt(1), undefined);
  clock.on({ type: 'begin', frame: 48_000, pos: 0 });
  assert.equal(clock.positionAt(0.5), 0);
  assert.equal(clock.positionAt(1.5), 12_000);
  clock.on({ type: 'stop', frame: 96_000, pos: 24_000, cause: 'dry', starved: false });
  assert.equal(clock.positionAt(2.5), 24_000);
  clock.on({ type: 'begin', frame: 144_000, pos: 30_000 });
  assert.equal(clock.positionAt(2.9), 24_000, 'the ear is still before the gap’s end');
  assert.equal(clock.positionAt(3.1), 32_400);
});

test('the time at the ear comes from the output’s stamp, or else from its latency', () => {
  const stamped = { currentTime: 5, outputLatency: 0.5, getOutputTimestamp: () => ({ contextTime: 4.9, performanceTime: 1000 }) };
  assert.equal(audibleTime(stamped, 1020), 4.92);
  const stale = { currentTime: 5, outputLatency: 0.1, baseLatency: 0.01, getOutputTimestamp: () => ({ contextTime: 1, performanceTime: 1 }) };
  assert.ok(Math.abs(audibleTime(stale, 1020) - 4.89) < 1e-9);
});

/** Ticks from the jitter buffer to the audio graph. */
const GRAPH = 18 * 48;

test('a track is muted at a flush, and heard again when the next answer leaves the jitter buffer', async () => {
  const source = { timestamp: 0, rtpTimestamp: 9000 };
  let now = 0;
  const muted: boolean[] = [];
  const output = { setMuted: (on: boolean) => muted.push(on), latency: () => 0 };
  const playback = new TrackPlayback({ getSynchronizationSources: () => [source] }, output, () => undefined, () => now);
  assert.equal(await playback.flush({ id: 1, turn: 1, valid_from: 5000 }), 9000 - GRAPH);
  assert.deepEqual(muted, [true]);
  await tick(30);
  playback.onTurn({ turn: 2, generation: 1, phase: 'start', pos: 15_000 });
  await tick(30);
  assert.deepEqual(muted, [true], 'what is in the jitter buffer belongs to the old answer');
  source.timestamp = now = 200;
  source.rtpTimestamp = 19_000;
  await tick(30);
  assert.deepEqual(muted, [true, false]);
  playback.stop();
  playback.onTurn({ turn: 3, generation: 2, phase: 'start', pos: 90_000 });
  now += 1200;
  await tick(30);
  assert.deepEqual(muted, [true, false, true, false], 'an answer that never comes does not silence for ever');
  playback.close();
});

test('after a stop of the page a flush is answered with where it stopped', async () => {
  const source = { timestamp: 0, rtpTimestamp: 9000 };
  const output = { setMuted: () => undefined, latency: () => 0.05 };
  const playback = new TrackPlayback({ getSynchronizationSources: () => [source] }, output, () => undefined, () => 0);
  playback.stop();
  source.rtpTimestamp = 3000;
  assert.equal(await playback.flush({ id: 1, turn: 1, valid_from: 5000 }), 9000 - GRAPH);
  playback.close();
});

test('what was decoded ahead of its time is not taken for heard', async () => {
  const source = { timestamp: 1000, rtpTimestamp: 48_000 };
  const output = { setMuted: () => undefined, latency: () => 0 };
  const playback = new TrackPlayback({ getSynchronizationSources: () => [source] }, output, () => undefined, () => source.timestamp);
  assert.equal(playback.report()!.pos, 48_000 - GRAPH);
  // The jitter buffer catches up: two packets at once.
  source.timestamp += 20;
  source.rtpTimestamp += 1920;
  assert.equal(playback.report()!.pos, 48_960 - GRAPH);
  // And has really done so, as one sees after a while.
  for (let i = 0; i < 10; i++) {
    source.timestamp += 20;
    source.rtpTimestamp += 960;
    playback.report();
  }
  assert.equal(playback.report()!.pos, 48_000 + 1920 + 9600 - GRAPH);
  playback.close();
});

test('RTP timestamps wrap around', () => {
  assert.equal(since(5, 0xffff_fffb), 10);
  assert.equal(since(0xffff_fffb, 5), -10);
});

test('a track reports where it is, its own delay taken off', async () => {
  const reports: Report[] = [];
  const source = { timestamp: 1000, rtpTimestamp: 48_000 };
  const playback = new TrackPlayback(
    { getSynchronizationSources: () => [source] },
    { setMuted: () => undefined, latency: () => 0.05 },
    (report) => reports.push(report),
    () => 1020,
  );
  await tick(130);
  playback.close();
  assert.deepEqual(reports[0], { pos: 48_000 - 0.03 * 48_000 - GRAPH, bufferedMs: 0 });
});
