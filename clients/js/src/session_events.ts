/** What a session tells. */

import type { Report, Transport } from './carrier.js';
import type { AntiphonError } from './errors.js';
import type { Ended, RelayStats, ToClient } from './messages.js';

/** Events of a session: every message of the relay by its type, and the session's own. */
export type SessionEvents = Omit<ToClient, 'started' | 'stats' | 'pong' | 'ended' | 'error'> & {
  /** The agent's audio as it comes: samples at 24 kHz, and the position of the first. Not on WebRTC. */
  audio: { samples: Int16Array; pos: number };
  /** What leaves the speaker, every 100 ms while something does. */
  playout: Report;
  error: AntiphonError;
  /** The link was lost; attempt number `attempt` to come back is made in `delayMs`. */
  reconnecting: { attempt: number; delayMs: number };
  /** The session goes on. `resumed` is false if messages were missed: the present state follows. */
  reconnected: { resumed: boolean; transport: Transport };
  /** The session is over: the last event. */
  ended: Omit<Ended, 'stats'> & { stats?: RelayStats | undefined };
};

/** Figures of a session from both ends. */
export interface SessionStats {
  relay: RelayStats;
  transport: Transport;
  rttMs: number | undefined;
  bufferedMs: number;
  /** Microphone audio that the network did not take. */
  droppedMs: number;
  /** Times that sound ran out in the middle of an answer. */
  starved: number;
}
