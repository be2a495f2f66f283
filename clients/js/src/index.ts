/**
 * `@antiphon/client`: talk with voice agents through an antiphon relay.
 *
 *     const session = await connect({ url: location.origin, agent: 'storyteller' });
 *     session.on('transcript', ({ role, text }) => console.log(role, text));
 */

export type { AudioOptions } from './audio.js';
export type { Report, Transport } from './carrier.js';
export { connect, type ConnectOptions } from './connect.js';
export { fetchAgents, fetchEndpoints, type AgentInfo, type Endpoints } from './endpoints.js';
export { AntiphonError } from './errors.js';
export type * from './messages.js';
export { Session } from './session.js';
export type { SessionEvents, SessionStats } from './session_events.js';
