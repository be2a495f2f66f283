/** `antiphon.v1` over WebRTC: audio on a track, messages on the data channel `antiphon.v1`. */

import type { AudioEngine } from './audio.js';
import type { Carrier, CarrierEvents, Open } from './carrier.js';
import { AntiphonError } from './errors.js';
import { parse, type AudioFormats, type FromRelay, type Start, type Started, type ToRelay } from './messages.js';
import { PathKeeper } from './path_keeper.js';
import { withNack } from './sdp.js';
import { TrackPlayback } from './track_playback.js';

const CHANNEL = 'antiphon.v1';
const FORMATS: AudioFormats = { in: { codec: 'opus', rate: 48_000 }, out: { codec: 'opus', rate: 48_000 } };
/** From the offer to a working path; beyond it another transport is tried. */
const CONNECT_MS = 5000;
/** A connection that was lost is closed when its session was resumed or is given up. */
const LINGER_MS = 30_000;
/** Refusals that another transport would only repeat. */
const ABOUT_CALLER = new Set(['unauthorized', 'forbidden', 'not_found', 'rate_limited', 'resume_failed', 'bad_message', 'misdirected']);

export interface WebRtcOptions {
  /** Where offers are posted. */
  url: string;
  audio: AudioEngine;
  fetch?: typeof fetch;
  RTCPeerConnection?: typeof RTCPeerConnection;
}

interface Answer {
  sdp: string;
  /** Absent where a session is resumed: then it comes on the data channel. */
  started?: Started;
  ice_servers?: RTCIceServer[];
  /** Where the relay takes an ICE restart; absent where a proxy hides it. */
  resource?: string;
}

/** Makes an opener of WebRTC links. */
export function webRtcOpener(options: WebRtcOptions): Open {
  return async (start, events) => {
    const Peer = options.RTCPeerConnection ?? RTCPeerConnection;
    const peer = new Peer();
    const carrier = new WebRtcCarrier(peer, options.audio, events);
    try {
      const offer = await peer.createOffer();
      await peer.setLocalDescription({ type: 'offer', sdp: withNack(offer.sdp ?? '') });
      const answer = await post(options, peer.localDescription?.sdp ?? offer.sdp ?? '', start);
      if (answer.ice_servers?.length) peer.setConfiguration({ iceServers: answer.ice_servers });
      await peer.setRemoteDescription({ type: 'answer', sdp: answer.sdp });
      const started = await carrier.run(CONNECT_MS, answer.started);
      carrier.keepPath(answer.resource, options.fetch ?? ((input, init) => fetch(input, init)));
      return { carrier, started };
    } catch (error) {
      // Nothing was started that could be resumed.
      carrier.close(1000);
      if (error instanceof AntiphonError) throw error;
      throw new AntiphonError('transport_unavailable', `no WebRTC call could be set up: ${String(error)}`, true);
    }
  };
}

/** Posts the offer; credentials go where proxies expect them. */
async function post(options: WebRtcOptions, sdp: string, start: Start): Promise<Answer> {
  const { token, ...rest } = start;
  const headers: Record<string, string> = { 'content-type': 'application/json' };
  if (token) headers['authorization'] = `Bearer ${token}`;
  const response = await (options.fetch ?? fetch)(options.url, {
    method: 'POST',
    headers,
    body: JSON.stringify({ sdp, start: { ...rest, audio: FORMATS } }),
    signal: AbortSignal.timeout(CONNECT_MS),
  });
  const body = (await response.json().catch(() => ({}))) as Partial<Answer> & { code?: string; detail?: string; reason?: string; url?: string };
  const location = response.headers?.get('location');
  if (response.ok && body.sdp) return { ...(body as Answer), ...(location && { resource: new URL(location, options.url).href }) };
  const said = body.detail ?? `${options.url} answered ${response.status}`;
  const after = Number(response.headers?.get('retry-after')) * 1000 || undefined;
  // What the relay holds against the caller it holds against him elsewhere too; anything else may be this path's fault.
  const code = body.code !== undefined && ABOUT_CALLER.has(body.code) ? body.code : 'transport_unavailable';
  throw new AntiphonError(code, said, response.status >= 500, after, undefined, body.reason, body.url);
}

class WebRtcCarrier implements Carrier {
  readonly transport = 'webrtc';
  readonly playback: TrackPlayback;
  readonly droppedMs = 0;
  private readonly channel: RTCDataChannel;
  private readonly waiting: string[] = [];
  /** What the relay said before the session took over: the channel may be quicker than the news that there is a path. */
  private early: FromRelay[] | undefined = [];
  private readonly started: Promise<Started>;
  private player: ReturnType<AudioEngine['playTrack']> | undefined;
  private muted = false;
  private closed = false;
  /** The session has started on this link, and may be resumed on another. */
  private begun = false;
  private path: PathKeeper | undefined;
  private onConnected: (() => void) | undefined;
  private onStarted: ((started: Started) => void) | undefined;
  private onFailed: ((error: AntiphonError) => void) | undefined;

  constructor(
    private readonly peer: RTCPeerConnection,
    audio: AudioEngine,
    private readonly events: CarrierEvents,
  ) {
    const transceiver = peer.addTransceiver(audio.track ?? 'audio', { direction: audio.track ? 'sendrecv' : 'recvonly' });
    this.channel = peer.createDataChannel(CHANNEL);
    const output = {
      mute: async () => {
        this.muted = true;
        return this.player?.mute();
      },
      unmute: () => {
        this.muted = false;
        this.player?.unmute();
      },
      latency: () => (audio.output.outputLatency ?? 0) + (audio.output.baseLatency ?? 0),
    };
    this.playback = new TrackPlayback(transceiver.receiver, output, (report) => events.onReport(report));
    peer.ontrack = ({ track }) => {
      this.player = audio.playTrack(track);
      if (this.muted) void this.player.mute();
    };
    this.channel.onopen = () => {
      for (const text of this.waiting.splice(0)) this.channel.send(text);
    };
    this.started = new Promise((resolve) => {
      this.onStarted = (started) => {
        this.onStarted = undefined;
        resolve(started);
      };
    });
    this.channel.onmessage = ({ data }) => {
      const message = parse(data);
      if (message?.type === 'started') this.onStarted?.(message);
      else if (message?.type === 'error' && this.onStarted) this.onFailed?.(AntiphonError.of(message));
      else if (message && this.early) this.early.push(message);
      else if (message) events.onMessage(message);
    };
    this.channel.onclose = () => this.finish('the data channel was closed');
    peer.onconnectionstatechange = () => this.onState(peer.connectionState);
  }

  /** Resolves when packets can flow and the session has started. */
  async run(within: number, started: Started | undefined): Promise<Started> {
    if (started) this.onStarted?.(started);
    const connected = new Promise<void>((resolve) => (this.onConnected = resolve));
    let timer: ReturnType<typeof setTimeout> | undefined;
    const failed = new Promise<never>((_, reject) => {
      const late = `no path for WebRTC was found within ${within / 1000} s`;
      timer = setTimeout(() => reject(new AntiphonError('transport_unavailable', late, true)), within);
      this.onFailed = reject;
    });
    this.onState(this.peer.connectionState);
    try {
      await Promise.race([connected, failed]);
      const answer = await Promise.race([this.started, failed]);
      this.begun = true;
      // The session takes over before it is told more.
      setTimeout(() => this.tellEarly());
      return answer;
    } finally {
      clearTimeout(timer);
      this.onFailed = undefined;
    }
  }

  private tellEarly(): void {
    const early = this.early ?? [];
    this.early = undefined;
    for (const message of early) this.events.onMessage(message);
  }

  private onState(state: RTCPeerConnectionState): void {
    if (state === 'connected') this.onConnected?.();
    if (state === 'failed' || state === 'closed') this.finish(`the peer connection is ${state}`);
    // A path often comes back, by itself or as another one: Wi-Fi to cellular, a moment without reception.
    if (state === 'disconnected') this.path?.restart();
  }

  /** From now on a path that is lost is replaced under the link. */
  keepPath(resource: string | undefined, get: typeof fetch): void {
    if (this.closed) return;
    const onAlive = (): void => this.events.onAlive?.();
    this.path = new PathKeeper(this.peer, resource, get, { onAlive, onLost: (reason) => this.finish(reason) });
  }

  /** The old path may be gone without having been missed yet. */
  onNetworkChange(): void {
    this.path?.restart();
  }

  send(message: ToRelay): void {
    const text = JSON.stringify(message);
    if (this.channel.readyState === 'open') this.channel.send(text);
    else if (this.channel.readyState === 'connecting' && this.waiting.length < 64) this.waiting.push(text);
  }

  setMicrophoneEnabled(_enabled: boolean): void {
    // The track itself was switched: a disabled one sends silence.
  }

  close(code: number): void {
    this.release(code === 1000);
  }

  private finish(reason: string): void {
    if (this.closed) return;
    this.onFailed?.(new AntiphonError('transport_unavailable', reason, true));
    this.release(!this.begun);
    this.events.onClosed(1006, reason);
  }

  /** Lets go of everything. Closing the connection is a hang-up for the relay: one that is to be resumed waits. */
  private release(hangUp: boolean): void {
    if (this.closed) return;
    this.closed = true;
    this.path?.close();
    this.playback.close();
    this.player?.close();
    this.channel.onclose = this.channel.onmessage = null;
    this.peer.onconnectionstatechange = null;
    if (hangUp) return this.peer.close();
    for (const sender of this.peer.getSenders?.() ?? []) void sender.replaceTrack(null).catch(() => undefined);
    const timer: unknown = setTimeout(() => this.peer.close(), LINGER_MS);
    // Where timers keep a program alive, as in Node.
    (timer as { unref?(): void }).unref?.();
  }
}
