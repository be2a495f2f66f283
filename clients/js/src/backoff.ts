/** When the next attempt to come back is made. */

/** The longest wait between two attempts. */
export const LONGEST_MS = 5000;
const SHORTEST_MS = 250;

/**
 * The wait before attempt number `attempt` (from 1): none before the first, because most losses are short, then twice
 * as long each time, with up to half of it taken off at random, so that many clients do not come at once.
 */
export function delayBefore(attempt: number, random: number = Math.random()): number {
  if (attempt <= 1) return 0;
  const full = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** (attempt - 2));
  return Math.round(full * (1 - random / 2));
}
