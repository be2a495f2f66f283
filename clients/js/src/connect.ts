/** From a URL to a session. */

import { openAudio, type AudioEngine, type AudioOptions } from './audio.js';
import type { Open, Transport } from './carrier.js';
import { choose, fetchEndpoints, type Endpoints } from './endpoints.js';
import { AntiphonError } from './errors.js';
import type { Setup, Start } from './messages.js';
import { Session } from './session.js';
import { webRtcOpener } from './webrtc.js';
import { isTrusted, webTransportOpener } from './webtransport.js';
import { webSocketOpener } from './websocket.js';

export interface ConnectOptions extends AudioOptions {
  /** The relay's HTTP base, such as `https://voice.example.com`; where sessions are opened is asked there. */
  url: string | URL;
  /** The agent asked for; without it the relay chooses. */
  agent?: string;
  /** `auto` (WebTransport, else WebRTC, else WebSocket), one to begin with, or exactly those to try, in order. */
  transport?: 'auto' | Transport | Transport[];
  /** Credentials. */
  token?: string;
  /** Credentials that grow old: asked for at each link. */
  getToken?: () => string | Promise<string>;
  /** A conversation to go on with. */
  conversationId?: string;
  /** Data for templates in the agent's set-up, at most 2 KiB. */
  context?: unknown;
  /** Data for the call record, at most 8 KiB. */
  metadata?: unknown;
  /** Fields of the agent's set-up to override, as far as the route allows. */
  setup?: Setup;
  /** For so long a lost session is tried to be resumed; the relay's default is 30 s. */
  reconnectForMs?: number;
}

/** What of the browser is used; another environment can stand in for it. */
export interface Environment {
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  RTCPeerConnection?: typeof RTCPeerConnection;
  WebTransport?: typeof WebTransport;
  openAudio?: (options: AudioOptions) => Promise<AudioEngine>;
  /** Where `online` events come from. */
  network?: Pick<EventTarget, 'addEventListener' | 'removeEventListener'>;
}

/**
 * Opens a session and starts talking. Call it from a user's click: browsers give sound and microphone to those.
 * Rejects with an `AntiphonError` whose message can be shown. Attach listeners right after `await`: nothing is missed.
 */
export async function connect(options: ConnectOptions, environment: Environment = {}): Promise<Session> {
  const [offered, audio] = await both(
    fetchEndpoints(options.url, environment.fetch ?? ((input, init) => fetch(input, init))),
    (environment.openAudio ?? openAudio)(options),
  );
  try {
    const open = follower(options, offered, audio, environment);
    const session = new Session({
      open,
      audio,
      start: startOf(options),
      getToken: options.getToken ?? (options.token === undefined ? undefined : () => options.token!),
      reconnectForMs: options.reconnectForMs ?? 30_000,
    });
    await session.begin();
    const network = environment.network ?? globalThis;
    const onChange = (): void => session.onNetworkChange();
    network.addEventListener?.('online', onChange);
    session.once('ended', () => network.removeEventListener?.('online', onChange));
    return session;
  } catch (error) {
    audio.close();
    throw error;
  }
}

/** Both, or the first failure; then audio that was opened meanwhile is given back. */
async function both(endpoints: Promise<Endpoints>, audio: Promise<AudioEngine>): Promise<[Endpoints, AudioEngine]> {
  try {
    return await Promise.all([endpoints, audio]);
  } catch (error) {
    void audio.then((opened) => opened.close()).catch(() => undefined);
    throw error;
  }
}

function startOf(options: ConnectOptions): Start {
  const start: Start = { type: 'start' };
  if (options.agent !== undefined) start.agent = options.agent;
  if (options.conversationId !== undefined) start.conversation_id = options.conversationId;
  if (options.context !== undefined) start.context = options.context;
  if (options.metadata !== undefined) start.metadata = options.metadata;
  if (options.setup !== undefined) start.setup = options.setup;
  return start;
}

/** As `opener`; goes where the relay says that the session is. */
function follower(options: ConnectOptions, offered: Endpoints, audio: AudioEngine, environment: Environment): Open {
  let open = opener(options, offered, audio, environment);
  return async (start, events) => {
    try {
      return await open(start, events);
    } catch (error) {
      if (!(error instanceof AntiphonError) || error.code !== 'misdirected' || error.url === undefined) throw error;
      const there = await fetchEndpoints(error.url, environment.fetch ?? ((input, init) => fetch(input, init)));
      open = opener({ ...options, url: error.url }, there, audio, environment);
      return open(start, events);
    }
  };
}

/** Tries the transports in order; what failed for another reason than its transport is not tried again elsewhere. */
function opener(options: ConnectOptions, offered: Endpoints, audio: AudioEngine, environment: Environment): Open {
  const Peer = environment.RTCPeerConnection ?? globalThis.RTCPeerConnection;
  const Web = environment.WebTransport ?? globalThis.WebTransport;
  const usable = (name: Transport): boolean =>
    ({ websocket: true, webrtc: Peer !== undefined, webtransport: Web !== undefined && isTrusted(globalThis.navigator?.userAgent ?? '') })[name];
  let order = choose(options.transport ?? 'auto', offered, usable);
  if (order.length === 0) {
    throw new AntiphonError('transport_unavailable', `${options.url} offers none of the transports that can be used here`);
  }
  const { WebSocket, fetch } = environment;
  const { url: web = '', cert_sha256: certificate } = offered.webtransport ?? {};
  const opens: Record<Transport, Open> = {
    websocket: webSocketOpener({ url: offered.websocket ?? '', audio, ...(WebSocket && { WebSocket }) }),
    webrtc: webRtcOpener({ url: offered.webrtc ?? '', audio, RTCPeerConnection: Peer, ...(fetch && { fetch }) }),
    webtransport: webTransportOpener({ url: web, certificate, audio, WebTransport: Web }),
  };
  return async (start, events) => {
    let failure: unknown;
    for (const transport of order) {
      try {
        return await opens[transport](start, events);
      } catch (error) {
        failure = error;
        const local = error instanceof AntiphonError && error.code === 'transport_unavailable';
        if (!local) break;
        // What does not work once would cost its timeout at every return.
        order = order.length > 1 ? order.filter((other) => other !== transport) : order;
      }
    }
    throw failure;
  };
}
