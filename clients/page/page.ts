/** The demo page: wires the session to what one sees. */

import { AntiphonError, connect, fetchAgents, fetchEndpoints, type AgentInfo, type Session, type Transport } from '@antiphon/client';
import { Meter } from './meter.js';
import { Plot, milliseconds } from './plot.js';
import { TranscriptView, basis } from './transcript.js';

const $ = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const base = new URL('.', location.href);
const PREFERRED = 'storyteller';
const STATS_MS = 1000;

const ui = {
  agent: $<HTMLSelectElement>('agent'),
  transport: $<HTMLSelectElement>('transport'),
  talk: $<HTMLButtonElement>('talk'),
  mute: $<HTMLButtonElement>('mute'),
  interrupt: $<HTMLButtonElement>('interrupt'),
};
const transcript = new TranscriptView($('transcript'), $('empty'));
const plot = new Plot($('plot'));
const meters = { you: new Meter($('you')), they: new Meter($('they')) };
let session: Session | undefined;
let connecting = false;

const TRANSPORTS: Record<Transport, string> = { webtransport: 'WebTransport', webrtc: 'WebRTC', websocket: 'WebSocket' };

const STATES: Record<string, [lamp: string, text: string]> = {
  idle: ['listening', 'Connected'],
  listening: ['listening', 'Listening to you'],
  processing: ['busy', 'Thinking'],
  speaking: ['speaking', 'Speaking'],
  waiting_for_user: ['listening', 'Waiting for you'],
  error: ['off', 'Something went wrong'],
  ended: ['off', 'Ended'],
};

function status(lamp: string, text: string): void {
  $('lamp').dataset['state'] = lamp;
  if ($('status').textContent !== text) $('status').textContent = text;
}

/** Which transport the call goes over, whatever was chosen. */
function inUse(transport: Transport | undefined): void {
  $('over').hidden = transport === undefined;
  $('over').textContent = transport ? `over ${TRANSPORTS[transport]}` : '';
}

function problem(text?: string): void {
  $('problem').hidden = text === undefined;
  $('problem').textContent = text ?? '';
}

function display(agent: { name: string; display?: Record<string, unknown> }): string {
  const name = agent.display?.['name'];
  return typeof name === 'string' ? name : agent.name;
}

/** What the buttons look like for what is going on. */
function refresh(): void {
  const live = session !== undefined;
  $('talk-label').textContent = live ? 'Hang up' : connecting ? 'Connecting…' : 'Talk';
  ui.talk.classList.toggle('live', live);
  ui.talk.disabled = !isSecureContext;
  // Not `disabled`: the keyboard's focus would be lost.
  ui.talk.setAttribute('aria-busy', String(connecting));
  ui.agent.disabled = ui.transport.disabled = live || connecting;
  ui.mute.disabled = ui.interrupt.disabled = !live;
  const muted = live && !session!.microphoneEnabled;
  ui.mute.setAttribute('aria-pressed', String(muted));
  ui.mute.textContent = muted ? 'Muted' : 'Mute';
}

async function talk(): Promise<void> {
  connecting = true;
  problem();
  transcript.clear();
  plot.clear();
  for (const id of ['up', 'down', 'rtt', 'heard']) $(id).textContent = '–';
  $('basis').textContent = '';
  status('busy', 'Connecting');
  refresh();
  try {
    const agent = ui.agent.value;
    const transport = ui.transport.value as 'auto' | Transport;
    const workletUrl = new URL('antiphon-worklet.js', base);
    session = await connect({ url: base, transport, workletUrl, ...(agent && { agent }) });
    follow(session);
  } catch (error) {
    status('off', 'Not connected');
    problem(error instanceof AntiphonError ? sentence(error.message) : String(error));
  } finally {
    connecting = false;
    refresh();
  }
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

/** Shows a session until it ends. */
function follow(live: Session): void {
  const name = display(live.agent);
  /** The agent's voice is held, and may go on. */
  let held = false;
  transcript.note(`Connected to ${name} over ${TRANSPORTS[live.transport!]}.`);
  status('listening', 'Connected');
  inUse(live.transport);
  live.on('state', ({ to }) => {
    const [lamp, text] = STATES[to] ?? ['listening', to];
    if (held && to === 'listening') return status(lamp, `${name} waits: is it you who speaks?`);
    status(lamp, to === 'speaking' || to === 'processing' ? `${name}: ${text.toLowerCase()}` : text);
  });
  live.on('transcript', (said) => transcript.on(said, said.role === 'user' ? 'You' : name));
  live.on('flush', ({ pause }) => void (held = pause ?? false));
  live.on('turn', ({ phase }) => void (held &&= phase !== 'start'));
  live.on('heard', (heard) => {
    held = false;
    transcript.onHeard(heard);
    $('heard').textContent = `${heard.ms} of ${heard.of_ms} ms`;
    $('basis').textContent = basis(heard);
    plot.addCut({ at: performance.now(), ms: heard.ms });
  });
  live.on('agent', (agent) => {
    if (agent.status === 'ready' || agent.status === 'connecting') return;
    const why = agent.reason ? ` (${agent.reason})` : '';
    const who = agent.name ? `Agent ${agent.name}` : 'The agent';
    transcript.note(`${who}: ${agent.status}${why}.`);
  });
  live.on('message', ({ role, text }) => transcript.note(`${role === 'user' ? 'You' : name} wrote: ${text}`));
  live.on('error', (error) => problem(sentence(error.message)));
  live.on('reconnecting', ({ attempt }) => status('busy', attempt > 1 ? `Reconnecting, attempt ${attempt}` : 'Reconnecting'));
  live.on('reconnected', ({ resumed, transport }) => {
    status('listening', 'Connected again');
    inUse(transport);
    const missing = resumed ? '' : ' Something may be missing.';
    transcript.note(`The connection was lost and has come back, over ${TRANSPORTS[transport]}.${missing}`);
  });
  const timer = setInterval(() => void poll(live), STATS_MS);
  live.on('ended', ({ reason, duration_ms }) => {
    clearInterval(timer);
    session = undefined;
    inUse(undefined);
    status('off', `Ended: ${reason.replaceAll('_', ' ')}`);
    if (duration_ms > 0) transcript.note(`The call took ${(duration_ms / 1000).toFixed(1)} s.`);
    refresh();
  });
  void poll(live);
  animate();
}

async function poll(live: Session): Promise<void> {
  const stats = await live.stats().catch(() => undefined);
  if (!stats || session !== live) return;
  const { up, down } = stats.relay.added_ms;
  plot.add({ at: performance.now(), up: up.p50, down: down.p50, rtt: stats.rttMs });
  $('up').textContent = milliseconds(up.p50);
  $('down').textContent = milliseconds(down.p50);
  $('rtt').textContent = milliseconds(stats.rttMs);
}

function animate(): void {
  const now = performance.now();
  meters.you.show(session?.microphoneEnabled ? session.level('microphone') : 0, now);
  meters.they.show(session?.level('agent') ?? 0, now);
  if (session) requestAnimationFrame(animate);
  else for (const meter of Object.values(meters)) for (let i = 0; i < 40; i++) meter.show(0, now + 2000);
}

/** Fills the menus. */
async function offer(): Promise<void> {
  try {
    const [agents, endpoints] = await Promise.all([fetchAgents(base), fetchEndpoints(base)]);
    const first = agents.find(({ name }) => name === PREFERRED) ?? agents.find((agent) => agent.default);
    const options = agents.map((agent: AgentInfo) => new Option(display(agent), agent.name, false, agent === first));
    if (options.length > 0) ui.agent.replaceChildren(...options);
    else problem('No agent takes callers from here without credentials; a route with `anonymous = true` would.');
    for (const [key, label] of Object.entries(TRANSPORTS) as [Transport, string][]) {
      if (endpoints[key] !== undefined) ui.transport.append(new Option(label, key));
    }
  } catch (error) {
    problem(sentence(error instanceof Error ? error.message : String(error)));
  }
}

function explainInsecure(): void {
  const port = location.port || '80';
  const target = `http://localhost:${port}/`;
  $('ssh').textContent = `ssh -N -L ${port}:127.0.0.1:${port} ${location.hostname}`;
  $('tls').textContent = [
    '[http]',
    `origins = ["https://${location.host}"]`,
    '[http.tls]',
    'cert = "fullchain.pem"',
    'key = "privkey.pem"',
  ].join('\n');
  const link = $<HTMLAnchorElement>('forwarded');
  link.href = link.textContent = target;
  $('insecure').hidden = false;
  status('off', 'The microphone needs a secure page: see above');
}

ui.talk.addEventListener('click', () => {
  if (session) void session.end();
  else if (!connecting) void talk();
});
ui.mute.addEventListener('click', () => {
  session?.setMicrophoneEnabled(!session.microphoneEnabled);
  refresh();
});
ui.interrupt.addEventListener('click', () => session?.interrupt());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && session) session.interrupt();
});
if (!isSecureContext) explainInsecure();
refresh();
void offer();
