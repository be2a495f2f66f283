// The sentences that the storyteller tells, as files of their own.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './daemon.mjs';

/** The links of a chained Ogg file (RFC 3533 section 4): each begins with a page whose flags say so. */
function links(ogg) {
  const begins = [];
  for (let at = 0; at < ogg.length; ) {
    if (ogg.toString('latin1', at, at + 4) !== 'OggS') throw new Error(`no Ogg page at ${at}`);
    if (ogg[at + 5] & 2) begins.push(at);
    const segments = ogg[at + 26];
    const body = ogg.subarray(at + 27, at + 27 + segments).reduce((sum, size) => sum + size, 0);
    at += 27 + segments + body;
  }
  return begins.map((at, i) => ogg.subarray(at, begins[i + 1]));
}

/** `{ text, file, skip_ms }` of each sentence; `skip_ms` of its first packet come before the recording's beginning. */
export function sentences() {
  const texts = JSON.parse(readFileSync(join(root, 'assets/story.json'), 'utf8'));
  return links(readFileSync(join(root, 'assets/story.ogg'))).map((file, i) => {
    const head = file.indexOf('OpusHead');
    return { text: texts[i].text, file, skip_ms: file.readUInt16LE(head + 10) / 48 };
  });
}
