/** RTP (RFC 3550 section 5.1) as `antiphon.v1` carries it in datagrams: no RTCP, no extensions. */

/** PCM16, little-endian (docs/protocol.md, QUIC and WebTransport). */
export const PCM16 = 96;
const HEADER = 12;

export interface RtpPacket {
  payloadType: number;
  marker: boolean;
  seq: number;
  timestamp: number;
  payload: Uint8Array;
}

/** Reads a packet; `undefined` for what is none. Padding, sources and extensions are taken off. */
export function readRtp(bytes: Uint8Array): RtpPacket | undefined {
  if (bytes.length < HEADER || bytes[0]! >> 6 !== 2) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let from = HEADER + (bytes[0]! & 0x0f) * 4;
  if (bytes[0]! & 0x10) {
    if (bytes.length < from + 4) return undefined;
    from += 4 + view.getUint16(from + 2) * 4;
  }
  const to = bytes.length - (bytes[0]! & 0x20 ? bytes.at(-1)! : 0);
  if (from > to) return undefined;
  return {
    payloadType: bytes[1]! & 0x7f,
    marker: (bytes[1]! & 0x80) !== 0,
    seq: view.getUint16(2),
    timestamp: view.getUint32(4),
    payload: bytes.subarray(from, to),
  };
}

/** Writes a packet behind `prefix`. */
export function writeRtp(prefix: Uint8Array, packet: RtpPacket, ssrc: number): Uint8Array {
  const bytes = new Uint8Array(prefix.length + HEADER + packet.payload.length);
  bytes.set(prefix);
  const view = new DataView(bytes.buffer, prefix.length);
  view.setUint8(0, 0x80);
  view.setUint8(1, packet.payloadType | (packet.marker ? 0x80 : 0));
  view.setUint16(2, packet.seq & 0xffff);
  view.setUint32(4, packet.timestamp >>> 0);
  view.setUint32(8, ssrc);
  bytes.set(packet.payload, prefix.length + HEADER);
  return bytes;
}

/** A 32-bit timestamp as the nearest position to `last`, which knows no wrap. */
export function extend(timestamp: number, last: number): number {
  return Math.max(0, last + ((timestamp - last) | 0));
}
