// What the fake microphone hears: silence, a spoken sentence, silence.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** Writes a 16-bit mono WAV; gives its rate and samples. */
export function writeSpeech(path, { before, after, text }) {
  const spoken = execFileSync('espeak-ng', ['-v', 'en', '-s', '150', '--stdout', text]);
  const rate = spoken.readUInt32LE(24);
  const data = spoken.subarray(spoken.indexOf('data') + 8);
  const words = new Int16Array(data.buffer.slice(data.byteOffset, data.byteOffset + (data.length & ~1)));
  const samples = new Int16Array(Math.round((before + after) * rate) + words.length);
  samples.set(words, Math.round(before * rate));
  const head = Buffer.alloc(44);
  head.write('RIFF', 0);
  head.writeUInt32LE(36 + samples.byteLength, 4);
  head.write('WAVEfmt ', 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(rate, 24);
  head.writeUInt32LE(rate * 2, 28);
  head.writeUInt16LE(2, 32);
  head.writeUInt16LE(16, 34);
  head.write('data', 36);
  head.writeUInt32LE(samples.byteLength, 40);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, Buffer.concat([head, Buffer.from(samples.buffer)]));
  return { rate, words };
}

/** Root mean square of each 20 ms. */
export function envelope(samples, rate) {
  const length = Math.round(rate / 50);
  return Array.from({ length: Math.floor(samples.length / length) }, (_, i) => {
    let sum = 0;
    for (let k = i * length; k < (i + 1) * length; k++) sum += (samples[k] / 32768) ** 2;
    return Math.sqrt(sum / length);
  });
}

/** The best correlation of `wanted` within `found`. */
export function correlation(wanted, found) {
  const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
  let best = -1;
  for (let shift = 0; shift + wanted.length <= found.length; shift++) {
    const part = found.slice(shift, shift + wanted.length);
    const [a, b] = [mean(wanted), mean(part)];
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = 0; i < wanted.length; i++) {
      ab += (wanted[i] - a) * (part[i] - b);
      aa += (wanted[i] - a) ** 2;
      bb += (part[i] - b) ** 2;
    }
    if (aa > 0 && bb > 0) best = Math.max(best, ab / Math.sqrt(aa * bb));
  }
  return best;
}
