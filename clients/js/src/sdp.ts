/** What is read from and written into session descriptions. */

/** Asks for retransmission of lost audio packets (RFC 4585 section 6.2.1), which browsers offer for video only. */
export function withNack(sdp: string): string {
  const opus = /^a=rtpmap:(\d+) opus\/48000/im.exec(sdp)?.[1];
  if (!opus || sdp.includes(`a=rtcp-fb:${opus} nack`)) return sdp;
  return sdp.replace(new RegExp(`^(a=rtpmap:${opus} .*)$`, 'm'), (line) => {
    const end = line.endsWith('\r') ? '' : '\r';
    return `${line}${end}\na=rtcp-fb:${opus} nack${line.endsWith('\r') ? '\r' : ''}`;
  });
}

const line = (name: string, sdp: string): string | undefined => new RegExp(`^a=${name}:(\\S+)`, 'm').exec(sdp)?.[1];

/** What of an offer begins a new ICE session, as `application/trickle-ice-sdpfrag` (RFC 8840 section 9). */
export function fragmentOf(offer: string): string {
  const media = /^m=.*$/m.exec(offer)?.[0].trimEnd() ?? 'm=audio 9 UDP/TLS/RTP/SAVPF 0';
  const lines = [`a=ice-ufrag:${line('ice-ufrag', offer)}`, `a=ice-pwd:${line('ice-pwd', offer)}`, media, `a=mid:${line('mid', offer) ?? 0}`];
  return `${lines.join('\r\n')}\r\n`;
}

/** An answer with the credentials of another ICE session; the relay's addresses are what they were. */
export function renewed(answer: string, fragment: string): string {
  const [ufrag, password] = [line('ice-ufrag', fragment), line('ice-pwd', fragment)];
  if (!ufrag || !password) throw new Error('the relay gave no credentials');
  return answer
    .replace(/^a=ice-ufrag:\S+/gm, `a=ice-ufrag:${ufrag}`)
    .replace(/^a=ice-pwd:\S+/gm, `a=ice-pwd:${password}`)
    // A candidate may name the session that it is for (RFC 8839 section 5.1).
    .replace(/^(a=candidate:.*) ufrag \S+/gm, '$1');
}
