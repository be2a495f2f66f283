/** What can go wrong before and during a session. */

import type { RelayError } from './messages.js';

/** Codes of this library; besides them `code` is one of the relay's (docs/errors.md). */
export type LocalCode =
  | 'insecure_context'
  | 'microphone_denied'
  | 'microphone_missing'
  | 'audio_unavailable'
  | 'unreachable'
  | 'link_lost'
  | 'transport_unavailable'
  | 'not_connected';

/** An error with a code, a sentence that can be shown, and whether the same thing may work later. */
export class AntiphonError extends Error {
  override readonly name = 'AntiphonError';

  constructor(
    readonly code: LocalCode | (string & {}),
    message: string,
    readonly retryable = false,
    readonly retryAfterMs?: number,
    readonly field?: string,
    /** Why a caller was not let in, such as `token_expired` (docs/errors.md). */
    readonly reason?: string,
    /** `misdirected`: the HTTP base of the node that has the session. */
    readonly url?: string,
  ) {
    super(message);
  }

  /** Of an `error` message. */
  static of(error: RelayError): AntiphonError {
    const { code, message, retryable, retry_after_ms, field, reason, url } = error;
    return new AntiphonError(code, message, retryable ?? false, retry_after_ms, field, reason, url);
  }

  /** Of a close without an `error` message before it. */
  static ofClose(code: number, reason: string): AntiphonError {
    if (code === 4401) {
      const message = 'the relay asks for credentials, or refused those given';
      return new AntiphonError('unauthorized', message, false, undefined, undefined, reason || undefined);
    }
    if (code === 4404) return new AntiphonError('not_found', 'there is no such agent or session');
    if (code === 4429) return new AntiphonError('rate_limited', 'a limit was reached', true);
    const why = reason ? `: ${reason}` : '';
    return new AntiphonError('link_lost', `the connection to the relay was lost (${code}${why})`, true);
  }
}

/** Whether a link that closed so may be resumed (docs/protocol.md, Resume and Ending). */
export function isResumable(code: number): boolean {
  return code !== 1000 && code !== 1013 && !(code >= 4400 && code < 4600);
}
