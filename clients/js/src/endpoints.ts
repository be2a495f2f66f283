/** What a relay offers. */

import type { Transport } from './carrier.js';
import { AntiphonError } from './errors.js';

/** The answer to `GET /v1/endpoints`. */
export interface Endpoints {
  websocket?: string;
  webrtc?: string;
  /** `cert_sha256`: the certificate to pin, where the relay signed its own. */
  webtransport?: { url: string; cert_sha256?: string };
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
  const { protocol, hostname } = new URL(base);
  const secure = protocol === 'https:';
  // A hash that anybody on the way could have written pins nothing.
  if (!secure && !isLoopback(hostname) && found.webtransport?.cert_sha256) delete found.webtransport;
  // Behind a proxy that ends TLS the relay does not see that the page is secure.
  if (secure && found.websocket?.startsWith('ws:')) found.websocket = `wss${found.websocket.slice(2)}`;
  if (secure && found.webrtc?.startsWith('http:')) found.webrtc = `https${found.webrtc.slice(4)}`;
  return found;
}

/** Asks what agents there are. */
export async function fetchAgents(base: string | URL, get: typeof fetch = fetch): Promise<AgentInfo[]> {
  return ((await fetchJson(base, '/v1/agents', get)) as { agents: AgentInfo[] }).agents;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '[::1]' || /^127(\.\d+){3}$/.test(host);
}

/** From the lowest latency to what works everywhere. */
const ORDER: readonly Transport[] = ['webtransport', 'webrtc', 'websocket'];

/** The transports to try, in order: what is wanted, as far as relay and browser have it. */
export function choose(wanted: 'auto' | Transport | Transport[], offered: Endpoints, usable: (name: Transport) => boolean): Transport[] {
  const there = (name: Transport): boolean => offered[name] !== undefined && usable(name);
  if (Array.isArray(wanted)) return wanted.filter(there);
  // A choice that cannot be had falls back rather than to fail: the call matters more than its transport.
  const from = wanted === 'auto' ? 0 : ORDER.indexOf(wanted);
  return ORDER.slice(from).filter(there);
}
