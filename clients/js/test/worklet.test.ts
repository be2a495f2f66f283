import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gate } from '../src/worklet/gate.js';
import { Player, type PlayerEvent } from '../src/worklet/player.js';
import { Recorder } from '../src/worklet/recorder.js';

const LINK = 24_000;

function tone(hz: number, rate: number, seconds: number, amplitude = 0.5): Float32Array {
  return Float32Array.from({ length: rate * seconds }, (_, i) => amplitude * Math.sin((2 * Math.PI * hz * i) / rate));
}

const pcm = (samples: Float32Array): Int16Array => Int16Array.from(samples, (sample) => Math.round(sample * 32767));
const rms = (samples: ArrayLike<number>): number => Math.sqrt(Array.from(samples).reduce((sum, x) => sum + x * x, 0) / samples.length);

/** Energy of one frequency, as amplitude. */
function amplitude(samples: ArrayLike<number>, hz: number, rate: number): number {
  let [re, im] = [0, 0];
  for (let i = 0; i < samples.length; i++) {
    re += samples[i]! * Math.cos((2 * Math.PI * hz * i) / rate);
    im += samples[i]! * Math.sin((2 * Math.PI * hz * i) / rate);
  }
  return (2 * Math.hypot(re, im)) / samples.length;
}

class Speaker {
  events: PlayerEvent[] = [];
  out: number[] = [];
  frame = 0;
  player: Player;

  constructor(readonly rate: number) {
    this.player = new Player(LINK, rate, (event) => this.events.push(event));
  }

  push(pos: number, samples: Int16Array): void {
    this.player.handle({ type: 'audio', pos, samples }, this.frame);
  }

  run(quanta: number): Float32Array {
    const all = new Float32Array(quanta * 128);
    for (let i = 0; i < quanta; i++, this.frame += 128) this.player.render(all.subarray(i * 128, i * 128 + 128), this.frame);
    return all;
  }

  last<T extends PlayerEvent['type']>(type: T): Extract<PlayerEvent, { type: T }> {
    return this.events.findLast((event) => event.type === type) as Extract<PlayerEvent, { type: T }>;
  }
}

for (const rate of [24_000, 44_100, 48_000]) {
  test(`a tone comes out of the player as it went in, at ${rate} Hz`, () => {
    const speaker = new Speaker(rate);
    speaker.push(0, pcm(tone(1000, LINK, 1)));
    const out = speaker.run(Math.floor(rate / 128)).subarray(2000, rate - 2000);
    assert.ok(Math.abs(amplitude(out, 1000, rate) - 0.5) < 0.01);
    const total = rms(out);
    assert.ok(Math.abs(total - 0.5 / Math.SQRT2) < 0.005, `rms ${total}: there is something besides the tone`);
  });
}

test('the player knows the position of every sample that it rendered', () => {
  const speaker = new Speaker(44_100);
  speaker.push(1000, pcm(tone(300, LINK, 0.5)));
  speaker.run(400);
  assert.deepEqual(speaker.events[0], { type: 'begin', frame: 0, pos: 1000 });
  const progress = speaker.last('progress');
  const exact = 1000 + (progress.frame * LINK) / 44_100;
  assert.ok(Math.abs(progress.pos - exact) <= 1, `${progress.pos} is not ${exact}`);
  const stop = speaker.last('stop');
  assert.equal(stop.pos, 1000 + LINK * 0.5);
  assert.equal(stop.cause, 'dry');
  assert.ok(Math.abs(stop.frame - 44_100 * 0.5) <= 2);
});

test('a flush is silence within 3 ms, and tells the last sample that was rendered', () => {
  const speaker = new Speaker(48_000);
  speaker.push(0, pcm(tone(500, LINK, 2)));
  speaker.run(100);
  speaker.player.handle({ type: 'flush' }, speaker.frame);
  const flushedAt = speaker.frame;
  const after = speaker.run(20);
  assert.equal(rms(after.subarray(128)), 0);
  const stop = speaker.last('stop');
  assert.equal(stop.cause, 'flush');
  assert.ok(stop.frame - flushedAt <= 144);
  assert.ok(Math.abs(stop.pos - stop.frame / 2) <= 1, `${stop.pos} at frame ${stop.frame}`);
});

test('a flush after the sound has stopped tells where it stopped, not what was thrown away', () => {
  const speaker = new Speaker(48_000);
  speaker.push(0, pcm(tone(500, LINK, 1)));
  speaker.run(50);
  speaker.player.handle({ type: 'flush' }, speaker.frame);
  speaker.run(10);
  const stopped = speaker.last('stop').pos;
  assert.ok(stopped > 3000 && stopped < 3500);
  speaker.push(LINK, pcm(tone(500, LINK, 0.01)));
  speaker.player.handle({ type: 'flush' }, speaker.frame);
  assert.equal(speaker.events.filter(({ type }) => type === 'stop').length, 2);
  assert.equal(speaker.last('stop').pos, stopped);
});

test('what comes right after a flush is played, from its own position', () => {
  const speaker = new Speaker(48_000);
  speaker.push(0, pcm(tone(500, LINK, 1)));
  speaker.run(10);
  speaker.player.handle({ type: 'flush' }, speaker.frame);
  speaker.push(LINK, pcm(tone(500, LINK, 0.1)));
  const out = speaker.run(100);
  assert.equal(speaker.last('begin').pos, LINK);
  assert.equal(speaker.last('stop').pos, LINK + 2400);
  assert.ok(rms(out) > 0.1);
});

test('playing waits for one frame, and for more after the link has proved uneven', () => {
  const speaker = new Speaker(48_000);
  const part = pcm(tone(500, LINK, 0.005));
  speaker.push(0, part);
  assert.equal(rms(speaker.run(1)), 0, 'five milliseconds are not begun with');
  speaker.run(20);
  assert.equal(speaker.last('stop').starved, true);
  speaker.push(120, pcm(tone(500, LINK, 0.03)));
  assert.equal(rms(speaker.run(2)), 0, 'thirty milliseconds are not enough now');
  speaker.push(120 + 720, pcm(tone(500, LINK, 0.03)));
  assert.ok(rms(speaker.run(2)) > 0);
});

test('the end of an answer is no starving', () => {
  const speaker = new Speaker(48_000);
  speaker.push(0, pcm(tone(500, LINK, 0.05)));
  speaker.player.handle({ type: 'end' }, speaker.frame);
  speaker.run(40);
  assert.deepEqual([speaker.last('stop').cause, speaker.last('stop').starved], ['dry', false]);
});

test('more than ten seconds are not kept, and are counted', () => {
  const speaker = new Speaker(48_000);
  for (let second = 0; second < 13; second++) speaker.push(second * LINK, pcm(tone(500, LINK, 1)));
  assert.ok(speaker.player.overflowed > 0);
  assert.ok(speaker.player.buffered <= 11 * LINK);
});

for (const rate of [24_000, 44_100, 48_000, 96_000]) {
  test(`the recorder makes 20 ms frames of what a ${rate} Hz microphone hears`, () => {
    const frames: Int16Array[] = [];
    const recorder = new Recorder(rate, LINK, 480, (frame) => frames.push(frame));
    const heard = tone(1000, rate, 1);
    for (let i = 0; i + 128 <= heard.length; i += 128) recorder.push(heard.subarray(i, i + 128));
    assert.ok(frames.length >= 49 && frames.every((frame) => frame.length === 480));
    const samples = frames.slice(2).flatMap((frame) => Array.from(frame, (x) => x / 32767));
    assert.ok(Math.abs(amplitude(samples, 1000, LINK) - 0.5) < 0.01);
  });
}

test('what lies above the link’s band does not come back as another tone', () => {
  const frames: Int16Array[] = [];
  const recorder = new Recorder(48_000, LINK, 480, (frame) => frames.push(frame));
  const heard = tone(15_000, 48_000, 1);
  for (let i = 0; i + 128 <= heard.length; i += 128) recorder.push(heard.subarray(i, i + 128));
  const samples = frames.slice(2).flatMap((frame) => Array.from(frame, (x) => x / 32767));
  assert.ok(rms(samples) < 0.0005, `alias of ${rms(samples)}`);
});

test('a gate shuts within 5 ms, and tells how much of the track came after', () => {
  const told: number[] = [];
  const gate = new Gate(48_000, ({ drained }) => told.push(drained));
  const loud = new Float32Array(128).fill(0.5);
  const out = new Float32Array(128);
  gate.render(loud, out);
  assert.ok(out.every((sample) => sample === 0.5));
  gate.handle('shut');
  gate.render(loud, out);
  gate.render(loud, out);
  assert.ok(out.every((sample) => sample === 0), 'silent two blocks later');
  assert.deepEqual(told, []);
  for (let i = 0; i < 6; i++) gate.render(undefined, out);
  assert.deepEqual(told, [256 / 48_000]);
  gate.handle('open');
  gate.render(loud, out);
  gate.render(loud, out);
  assert.ok(out.every((sample) => sample === 0.5));
  for (let i = 0; i < 10; i++) gate.render(undefined, out);
  assert.equal(told.length, 1, 'only what comes after shutting counts');
});
