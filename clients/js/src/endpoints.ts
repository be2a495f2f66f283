/** What a relay offers. */

import type { Transport } from './carrier.js';
import { AntiphonError } from './errors.js';

/** The answer to `GET /v1/endpoints`. */
export interface Endpoints {
  websocket?: string;
  webrtc?: string;
}

/** An agent that can be reached without credentials, from `GET /v1/agents`. */
export interface AgentInfo {
  name: string;
  /** Whether callers who name no agent get this one. */
  default: boolean;
  /** Its display table, as the operator wrote it. */
  display?: Record<string, unknown>;
  transports: Transport[];
}

async function fetchJson(base: string | URL, path: string, get: typeof fetch): Promise<unknown> {
  const url = new URL(path, base);
  const response = await get(url, { signal: AbortSignal.timeout(10_000) }).catch((error: unknown) => {
    throw new AntiphonError('unreachable', `${url.href} cannot be reached (${String(error)})`, true);
  });
  if (!response.ok) throw new AntiphonError('unreachable', `${url.href} answered ${response.status}`, response.status >= 500);
  return response.json();
}

/** Asks what transports there are. */
export async function fetchEndpoints(base: string | URL, get: typeof fetch = fetch): Promise<Endpoints> {
  const found = (await fetchJson(base, '/v1/endpoints', get)) as Endpoints;
  const secure = new URL(base).protocol === 'https:';
  // Behind a proxy that ends TLS the relay does not see that the page is secure.
  if (secure && found.websocket?.startsWith('ws:')) found.websocket = `wss${found.websocket.slice(2)}`;
  if (secure && found.webrtc?.startsWith('http:')) found.webrtc = `https${found.webrtc.slice(4)}`;
  return found;
}

/** Asks what agents there are. */
export async function fetchAgents(base: string | URL, get: typeof fetch = fetch): Promise<AgentInfo[]> {
  return ((await fetchJson(base, '/v1/agents', get)) as { agents: AgentInfo[] }).agents;
}

/** The transports to try, in order: what is wanted, as far as relay and browser have it. */
export function choose(wanted: 'auto' | Transport | Transport[], offered: Endpoints, hasWebRtc: boolean): Transport[] {
  const order: Transport[] = wanted === 'auto' ? ['webrtc', 'websocket'] : [wanted].flat();
  const there = order.filter((name) => offered[name] !== undefined && (name !== 'webrtc' || hasWebRtc));
  // A choice that cannot be had falls back rather than to fail: the call matters more than its transport.
  if (there.length === 0 || wanted === 'webrtc') {
    if (offered.websocket !== undefined && !there.includes('websocket')) there.push('websocket');
  }
  return there;
}
