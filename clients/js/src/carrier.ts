/** What a session needs of a transport. */

import type { Flush, FromRelay, Start, Started, ToRelay, Turn } from './messages.js';

export type Transport = 'websocket' | 'webrtc' | 'webtransport';

/** What leaves the speaker now. */
export interface Report {
  pos: number;
  bufferedMs: number;
}

/** The agent's audio on its way to the ear. */
export interface Playback {
  /** An answer begins or ends at a place in the audio. */
  onTurn(turn: Turn): void;
  /** Silence now, before the relay knows of it; what comes is thrown away until it has answered with a flush. */
  stop(): Report | undefined;
  /** Silence now; gives the position of the last sample that was or will be heard. */
  flush(flush: Flush): Promise<number>;
  /** What leaves the speaker now; `undefined` if nothing was ever played. */
  report(): Report | undefined;
  /** Times that sound ran out in the middle of an answer. */
  readonly starved: number;
}

/** A link that was opened, and its audio. */
export interface Carrier {
  readonly transport: Transport;
  readonly playback: Playback;
  /** Microphone audio thrown away because the network did not take it, in milliseconds. */
  readonly droppedMs: number;
  /** Sends a control message; does nothing on a link that is gone. */
  send(message: ToRelay): void;
  setMicrophoneEnabled(enabled: boolean): void;
  /** The device has another network than before, or one again. */
  onNetworkChange?(): void;
  /** Ends the link. 1000 ends the session too; anything else leaves it for a resume. */
  close(code: number): void;
}

/** What a carrier tells its session. Nothing comes after `onClosed`. */
export interface CarrierEvents {
  onMessage(message: FromRelay): void;
  onReport(report: Report): void;
  onAudio(samples: Int16Array, pos: number): void;
  /** Something came that is not told otherwise. */
  onAlive?(): void;
  onClosed(code: number, reason: string): void;
}

/** Opens a link: resolves when `started` has come, rejects with an `AntiphonError`. */
export type Open = (start: Start, events: CarrierEvents) => Promise<{ carrier: Carrier; started: Started }>;
