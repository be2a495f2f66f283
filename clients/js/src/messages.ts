/** The control messages of `antiphon.v1`, as they are on the wire (docs/protocol.md). */

/** How audio is carried. */
export interface Format {
  codec: 'opus' | 'pcm16' | 'pcmu' | 'pcma';
  rate: number;
  channels?: number;
}

export interface AudioFormats {
  in: Format;
  out: Format;
}

/** Fields of the agent's set-up that a client may override, where the route allows it. */
export interface Setup {
  instructions?: string;
  voice?: string;
  language?: string;
  model?: string;
  greeting?: { say: string } | { prompt: string } | { clip: string } | 'agent' | 'none';
  transcribe?: boolean;
  turns?: { detect: 'server' | 'semantic' | 'relay' | 'manual' };
  tools?: string[];
}

export interface Start {
  type: 'start';
  agent?: string;
  conversation_id?: string;
  audio?: AudioFormats;
  context?: unknown;
  metadata?: unknown;
  setup?: Setup;
  resume?: string;
  have?: number;
  token?: string;
}

export type Role = 'user' | 'agent';

export type State = 'idle' | 'listening' | 'processing' | 'speaking' | 'waiting_for_user' | 'error' | 'ended';

/** What leaves the speaker: a position of the relay's audio, and what is still to be played. */
export interface Playout {
  type: 'playout';
  pos: number;
  buffered_ms?: number;
  flush?: number;
}

/** What an interruption does on a route where it can be taken back; elsewhere `pause` is `confirm`. */
export type InterruptAction = 'pause' | 'confirm' | 'resume';

/** Everything that a client sends. */
export type ToRelay =
  | Start
  | Playout
  | { type: 'message'; id: string; text: string }
  | { type: 'typing'; on: boolean }
  | { type: 'interrupt'; turn?: number; pos?: number; action?: InterruptAction }
  | { type: 'input'; action: 'start' | 'commit' | 'clear' }
  | { type: 'mic'; on: boolean }
  | { type: 'dtmf'; digits: string }
  | { type: 'state'; to: State }
  | { type: 'tool_result'; call_id: string; output: string; is_error?: boolean }
  | { type: 'consent'; recording: 'granted' | 'refused' }
  | { type: 'app'; name: string; data: unknown }
  | { type: 'update'; setup: Setup }
  | { type: 'stats' }
  | { type: 'end' }
  | { type: 'ping'; t: number };

export interface Percentiles {
  p50: number;
  p99: number;
}

/** Figures of a session, as the relay counts them. */
export interface RelayStats {
  added_ms: { up: Percentiles; down: Percentiles };
  lost: number;
  concealed_ms: number;
  filled_ms: number;
  heard_ms: number;
}

export interface Started {
  session_id: string;
  conversation_id: string;
  agent: { name: string; display?: Record<string, unknown>; delay_ms?: number };
  audio: AudioFormats;
  resume_token: string;
  expires_at?: number;
  /** What is in force of the set-up, as far as a client is told. */
  setup?: Setup;
  resumed?: boolean;
}

export interface Transcript {
  item: string;
  turn: number;
  role: Role;
  text: string | null;
  final: boolean;
  start_ms?: number;
  end_ms?: number;
  heard?: { ms: number; of_ms: number };
  cut?: 'aligned' | 'estimated';
}

/** How sure the relay is of what was heard. Treat a value that is not known here as `paced`. */
export type Basis = 'reported' | 'acked' | 'marked' | 'paced' | (string & {});

export interface Heard {
  turn: number;
  ms: number;
  of_ms: number;
  basis: Basis;
  error_ms: number;
}

export interface Turn {
  turn: number;
  generation: number;
  item?: string;
  phase: 'start' | 'end';
  pos: number;
}

export interface Flush {
  id: number;
  turn: number;
  valid_from: number;
  /** The answer may go on: `heard` follows if it does not, and `turn` `start` if it does. */
  pause?: boolean;
}

export interface RelayError {
  code: string;
  message: string;
  /** Why a caller was not let in. */
  reason?: string;
  field?: string;
  retryable?: boolean;
  retry_after_ms?: number;
  /** `misdirected`: the HTTP base of the node that has the session. */
  url?: string;
}

export interface Ended {
  reason: string;
  duration_ms: number;
  messages: number;
  stats?: RelayStats;
}

/** Everything that the relay sends: the fields of each type. */
export interface ToClient {
  started: Started;
  transcript: Transcript;
  delta: { message_id: string; text: string };
  message: { id: string; text: string; role: Role };
  state: { from: State; to: State };
  typing: { on: boolean; who: Role };
  speech: { who: Role; event: 'started' | 'stopped' };
  turn: Turn;
  flush: Flush;
  heard: Heard;
  agent: { status: 'connecting' | 'ready' | 'fallback' | 'text' | 'down'; name: string; reason?: string; retry_after_ms?: number };
  tool_call: { call_id: string; name: string; arguments: string };
  tool: { call_id: string; name: string; status: string };
  usage: { turn: number; [unit: string]: number };
  alert: { name: string; severity: string; data?: unknown };
  app: { name: string; data: unknown };
  draining: { reconnect_after_ms: number; deadline_ms: number };
  ending: { reason: string; in_ms: number };
  error: RelayError;
  stats: RelayStats;
  ended: Ended;
  pong: { t: number };
}

/** One message of the relay; `seq` counts those that are kept for a resume. */
export type FromRelay = { [K in keyof ToClient]: { type: K; seq?: number } & ToClient[K] }[keyof ToClient];

/** Reads a text frame; `undefined` for what is no message. */
export function parse(text: unknown): FromRelay | undefined {
  if (typeof text !== 'string') return undefined;
  try {
    const value: unknown = JSON.parse(text);
    const good = typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string';
    return good ? (value as FromRelay) : undefined;
  } catch {
    return undefined;
  }
}
