/** Keeps a WebRTC connection's path: notices that nothing comes any more, and has ICE look for another one. */

import { fragmentOf, renewed, withNack } from './sdp.js';

/** How often it is looked whether something came. */
const LOOK_MS = 500;
/** Something comes every two seconds at least, an answer to a ping. Browsers take 7 s to miss it. */
const QUIET_MS = 2500;
/** How long a new path may take before another one is looked for. */
const AGAIN_MS = 1000;
/** A connection over which nothing came for so long is given up. */
const GIVE_UP_MS = 5000;
/** How long the relay may take to agree to a new path. */
const ANSWER_MS = 2000;
/** Timers that come so late were stopped by the browser (sleep, background), and tell nothing about the path. */
const ASLEEP_MS = 3000;

export interface PathKeeperEvents {
  onAlive(): void;
  onLost(reason: string): void;
}

export class PathKeeper {
  private received = 0;
  private heardAt = performance.now();
  private lookedAt = performance.now();
  private restartedAt = -Infinity;
  private readonly timer: ReturnType<typeof setInterval>;

  /** `resource`: where the relay takes an ICE restart (RFC 9725 section 4.3); absent where a proxy hides it. */
  constructor(
    private readonly peer: RTCPeerConnection,
    private readonly resource: string | undefined,
    private readonly get: typeof fetch,
    private readonly events: PathKeeperEvents,
  ) {
    this.timer = setInterval(() => void this.look(), LOOK_MS);
    // Where timers keep a program alive, as in Node.
    (this.timer as unknown as { unref?(): void }).unref?.();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** The path may be gone: another one is looked for; as long as none is found the present one stands. */
  restart(): void {
    const now = performance.now();
    if (!this.resource || now - this.restartedAt < AGAIN_MS) return;
    this.restartedAt = now;
    // Without an answer the network is gone, or the relay; both may come back in time.
    void restartIce(this.peer, this.resource, this.get).catch((error) => {
      if (error instanceof Refused) this.events.onLost(error.message);
    });
  }

  private async look(): Promise<void> {
    const received = await bytesReceived(this.peer);
    const now = performance.now();
    if (now - this.lookedAt > ASLEEP_MS) this.heardAt = now - QUIET_MS;
    this.lookedAt = now;
    if (received !== this.received) {
      this.received = received;
      this.heardAt = now;
      return this.events.onAlive();
    }
    // A browser that does not count tells nothing.
    if (received === 0) return;
    if (now - this.heardAt >= GIVE_UP_MS) this.events.onLost('nothing came for some seconds');
    else if (now - this.heardAt >= QUIET_MS) this.restart();
  }
}

async function bytesReceived(peer: RTCPeerConnection): Promise<number> {
  let bytes = 0;
  const stats = await peer.getStats().catch(() => undefined);
  stats?.forEach((entry: RTCStats & { bytesReceived?: number }) => {
    if (entry.type === 'candidate-pair') bytes += entry.bytesReceived ?? 0;
  });
  return bytes;
}

/** The relay does not know the connection any more. */
class Refused extends Error {}

async function restartIce(peer: RTCPeerConnection, resource: string, get: typeof fetch): Promise<void> {
  const answer = peer.remoteDescription?.sdp ?? '';
  const offer = await peer.createOffer({ iceRestart: true });
  await peer.setLocalDescription({ type: 'offer', sdp: withNack(offer.sdp ?? '') });
  try {
    const response = await get(resource, {
      method: 'PATCH',
      headers: { 'content-type': 'application/trickle-ice-sdpfrag', 'if-match': '*' },
      body: fragmentOf(peer.localDescription?.sdp ?? ''),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    const said = `${resource} answered ${response.status}`;
    if (response.status >= 400 && response.status < 500) throw new Refused(said);
    if (!response.ok) throw new Error(said);
    await peer.setRemoteDescription({ type: 'answer', sdp: renewed(answer, await response.text()) });
  } catch (error) {
    await peer.setLocalDescription({ type: 'rollback' }).catch(() => undefined);
    throw error;
  }
}
