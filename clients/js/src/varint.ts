/** Variable-length integers of QUIC (RFC 9000 section 16), as far as numbers of JavaScript reach. */

/** Bytes of `value`, which is below 2^30. */
export function encodeVarint(value: number): Uint8Array {
  if (value < 0x40) return Uint8Array.of(value);
  if (value < 0x4000) return Uint8Array.of(0x40 | (value >> 8), value & 0xff);
  return Uint8Array.of(0x80 | (value >> 24), (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff);
}

/** The integer at `at` and where it ends; `undefined` if more bytes are needed. */
export function decodeVarint(bytes: Uint8Array, at = 0): { value: number; end: number } | undefined {
  const first = bytes[at];
  if (first === undefined) return undefined;
  const end = at + (1 << (first >> 6));
  if (end > bytes.length) return undefined;
  let value = first & 0x3f;
  for (let i = at + 1; i < end; i++) value = value * 256 + bytes[i]!;
  return { value, end };
}

/** One piece after the other. */
export function concat(...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
