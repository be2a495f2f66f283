/** A session: one call, over as many links as it takes. */

import type { AudioEngine } from './audio.js';
import { delayBefore } from './backoff.js';
import type { Carrier, CarrierEvents, Open, Report, Transport } from './carrier.js';
import { Emitter } from './emitter.js';
import { AntiphonError, isResumable } from './errors.js';
import { Lifeline, PING_MS } from './lifeline.js';
import type { Ended, FromRelay, InterruptAction, RelayStats, Setup, Start, Started, ToRelay } from './messages.js';
import type { SessionEvents, SessionStats } from './session_events.js';

/** What a session is made of. */
export interface SessionParts {
  open: Open;
  audio: AudioEngine;
  start: Start;
  getToken?: (() => string | Promise<string>) | undefined;
  /** For so long it is tried to come back; the relay keeps a session for the route's `resume_window_s`. */
  reconnectForMs: number;
  now?: () => number;
}

const STATS_MS = 5000;
const END_MS = 2000;

export class Session extends Emitter<SessionEvents> {
  /** The agent that answers, as the relay told. */
  agent: Started['agent'] = { name: '' };
  id = '';
  conversationId = '';
  private carrier: Carrier | undefined;
  private token = '';
  private have = 0;
  private lifeline: Lifeline | undefined;
  private heartbeat: ReturnType<typeof setInterval> | undefined;
  private moving: ReturnType<typeof setTimeout> | undefined;
  private microphone = true;
  private done = false;
  private wake: (() => void) | undefined;
  private readonly asked: ((stats: RelayStats) => void)[] = [];
  private messages = 0;
  private readonly now: () => number;

  constructor(private readonly parts: SessionParts) {
    super();
    this.now = parts.now ?? (() => performance.now());
  }

  /** The transport of the present link; `undefined` while there is none. */
  get transport(): Transport | undefined {
    return this.carrier?.transport;
  }

  /** The last measured round trip to the relay, in milliseconds. */
  get rttMs(): number | undefined {
    return this.lifeline?.rttMs;
  }

  get microphoneEnabled(): boolean {
    return this.microphone;
  }

  /** Opens the first link. Called by `connect`. */
  async begin(): Promise<void> {
    await this.link(this.parts.start);
    this.heartbeat = setInterval(() => this.lifeline?.tick(this.now()), PING_MS);
  }

  /** Switches the microphone; the agent hears silence while it is off. */
  setMicrophoneEnabled(enabled: boolean): void {
    if (enabled === this.microphone) return;
    this.microphone = enabled;
    this.parts.audio.setMicrophoneEnabled(enabled);
    this.carrier?.setMicrophoneEnabled(enabled);
    this.send({ type: 'mic', on: enabled });
  }

  /** Sends a text message to the agent; gives its id. */
  sendText(text: string): string {
    const id = `m-${++this.messages}`;
    this.send({ type: 'message', id, text });
    return id;
  }

  /**
   * Silences the agent's present answer: here at once, and at the relay as soon as it hears of it. On a route where
   * interruptions can be taken back, `pause` silences it for the moment; `confirm` makes that final, and `resume` lets it go on
   * where it was heard last.
   */
  interrupt(action?: InterruptAction): void {
    const goesOn = action === 'confirm' || action === 'resume';
    const report = goesOn ? undefined : this.carrier?.playback.stop();
    this.send({ type: 'interrupt', ...(report && { pos: report.pos >>> 0 }), ...(action && { action }) });
  }

  /** Changes the agent's set-up, as far as the route allows; a field that is refused comes as an `error` event. */
  update(setup: Setup): void {
    this.send({ type: 'update', setup });
  }

  /** Sends any control message of the protocol. */
  send(message: ToRelay): void {
    this.carrier?.send(message);
  }

  /** Level of the last 20 ms or so, root mean square, 0 to 1. */
  level(of: 'microphone' | 'agent'): number {
    return this.parts.audio.level(of);
  }

  /** Asks the relay for its figures and adds those of this end. */
  async stats(): Promise<SessionStats> {
    const { carrier } = this;
    if (!carrier || this.done) throw new AntiphonError('not_connected', 'there is no link to the relay now', true);
    const relay = await new Promise<RelayStats>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.asked.splice(this.asked.indexOf(answer), 1);
        reject(new AntiphonError('link_lost', 'the relay did not answer', true));
      }, STATS_MS);
      const answer = (stats: RelayStats): void => (clearTimeout(timer), resolve(stats));
      this.asked.push(answer);
      carrier.send({ type: 'stats' });
    });
    const { playback, droppedMs, transport } = carrier;
    const bufferedMs = playback.report()?.bufferedMs ?? 0;
    return { relay, transport, rttMs: this.rttMs, bufferedMs, droppedMs, starved: playback.starved };
  }

  /** Hangs up; resolves when the relay has confirmed it, or after two seconds. */
  end(): Promise<void> {
    if (this.done) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.finish({ reason: 'client_hangup', duration_ms: 0, messages: 0 }), END_MS);
      this.once('ended', () => (clearTimeout(timer), resolve()));
      if (this.carrier) this.send({ type: 'end' });
      else this.finish({ reason: 'client_hangup', duration_ms: 0, messages: 0 });
    });
  }

  /** The network has changed: comes back at once if it is gone, else asks whether the link still lives. */
  onNetworkChange(): void {
    this.wake?.();
    this.carrier?.onNetworkChange?.();
    this.lifeline?.tick(this.now());
  }

  /** Opens a link and makes it the present one. */
  private async link(start: Start): Promise<Started> {
    const token = await this.parts.getToken?.();
    let mine: Carrier | undefined;
    const isPresent = (): boolean => mine !== undefined && mine === this.carrier;
    const events: CarrierEvents = {
      onMessage: (message) => isPresent() && this.onMessage(message),
      onReport: (report) => isPresent() && this.onReport(report),
      onAudio: (samples, pos) => this.hasListener('audio') && this.emit('audio', { samples: samples.slice(), pos }),
      onAlive: () => isPresent() && this.lifeline?.onAlive(this.now()),
      onClosed: (code, reason) => isPresent() && this.onClosed(code, reason),
    };
    const { carrier, started } = await this.parts.open(token ? { ...start, token } : start, events);
    if (this.done) {
      carrier.close(1000);
      return started;
    }
    const old = this.carrier;
    this.carrier = mine = carrier;
    old?.close(4000);
    this.adopt(started);
    if (!this.microphone) {
      carrier.setMicrophoneEnabled(false);
      carrier.send({ type: 'mic', on: false });
    }
    return started;
  }

  private adopt(started: Started): void {
    this.agent = started.agent;
    this.id = started.session_id;
    this.conversationId = started.conversation_id;
    this.token = started.resume_token;
    if (started.resumed === false) this.have = 0;
    this.lifeline = new Lifeline(
      {
        onPing: (t) => this.send({ type: 'ping', t }),
        onLost: () => {
          const { carrier } = this;
          carrier?.close(4000);
          this.onClosed(1006, 'nothing came from the relay');
        },
      },
      this.now(),
    );
    this.lifeline.tick(this.now());
  }

  private onReport(report: Report): void {
    this.send({ type: 'playout', pos: report.pos >>> 0, buffered_ms: report.bufferedMs });
    this.emit('playout', report);
  }

  private onMessage(message: FromRelay): void {
    this.lifeline?.onAlive(this.now());
    if (message.seq !== undefined) this.have = Math.max(this.have, message.seq);
    const { carrier } = this;
    switch (message.type) {
      case 'started':
        return;
      case 'pong':
        return this.lifeline?.onPong(message.t, this.now());
      case 'stats':
        return this.asked.shift()?.(message);
      case 'error':
        return this.emit('error', AntiphonError.of(message));
      case 'ended':
        return this.finish(message);
      case 'turn':
        carrier?.playback.onTurn(message);
        break;
      case 'flush':
        void carrier?.playback
          .flush(message)
          .then((pos) => carrier.send({ type: 'playout', pos: pos >>> 0, flush: message.id }));
        break;
      case 'draining':
        clearTimeout(this.moving);
        this.moving = setTimeout(() => void this.move(), message.reconnect_after_ms);
        break;
    }
    const { type, ...event } = message;
    this.emit(type as keyof SessionEvents, event as never);
  }

  /** The node goes down: a new link takes over while the old one still speaks. */
  private async move(): Promise<void> {
    try {
      const started = await this.link({ type: 'start', resume: this.token, have: this.have });
      this.emit('reconnected', { resumed: started.resumed ?? false, transport: this.carrier!.transport });
    } catch {
      // The old link is still there; its end is handled as any other.
    }
  }

  private onClosed(code: number, reason: string): void {
    this.carrier = undefined;
    this.lifeline = undefined;
    if (this.done) return;
    clearTimeout(this.moving);
    if (isResumable(code)) void this.comeBack();
    else this.fail(code === 1000 ? undefined : AntiphonError.ofClose(code, reason));
  }

  private async comeBack(): Promise<void> {
    const until = this.now() + this.parts.reconnectForMs;
    for (let attempt = 1; !this.done; attempt++) {
      const delayMs = delayBefore(attempt);
      this.emit('reconnecting', { attempt, delayMs });
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, delayMs);
        this.wake = () => (clearTimeout(timer), resolve());
      });
      this.wake = undefined;
      if (this.done) return;
      try {
        const started = await this.link({ type: 'start', resume: this.token, have: this.have });
        return this.emit('reconnected', { resumed: started.resumed ?? false, transport: this.carrier!.transport });
      } catch (error) {
        const failure = error instanceof AntiphonError ? error : new AntiphonError('link_lost', String(error));
        if (!failure.retryable || this.now() >= until) return this.fail(failure);
      }
    }
  }

  private fail(error: AntiphonError | undefined): void {
    if (error) this.emit('error', error);
    this.finish({ reason: error ? 'client_lost' : 'agent_hangup', duration_ms: 0, messages: 0 });
  }

  private finish(ended: Ended): void {
    if (this.done) return;
    this.done = true;
    clearInterval(this.heartbeat);
    clearTimeout(this.moving);
    this.wake?.();
    this.carrier?.close(1000);
    this.carrier = undefined;
    this.parts.audio.close();
    const { reason, duration_ms, messages, stats } = ended;
    this.emit('ended', { reason, duration_ms, messages, stats });
  }
}
