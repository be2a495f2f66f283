// A full session of @openai/agents-realtime with whatever speaks the Realtime wire at URL, over `websocket` or `webrtc`:
// tool, audio, an error, interruption by speech and by the application; with KEY if there is one. Prints one JSON object.
import { createRequire } from "node:module";

const require = createRequire(new URL("../../clients/package.json", import.meta.url));
const { OpenAIRealtimeWebRTC, OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } = require("@openai/agents-realtime");

const [transport, url, key] = process.argv.slice(2);
const RATE = 24000;
const patience = setTimeout(() => fail("it takes too long"), 100_000);
const seen = [];
const calls = [];
/** What was said, PCM16 at 24 kHz, since the last turn began. */
let heard = [];

function fail(why) {
  console.error(`${why}; there were ${seen.slice(-60).join(" ")}`);
  process.exit(1);
}

const loud = (samples) => samples.some((sample) => Math.abs(sample) > 500);

/** Microphone and loudspeaker of a caller on a WebSocket. */
function webSocket() {
  const layer = new OpenAIRealtimeWebSocket({ url });
  layer.on("audio", ({ data }) => heard.push(...new Int16Array(data)));
  return { layer, rate: RATE, frame: RATE / 50, play: (frame) => session.sendAudio(frame.buffer) };
}

/** Of one on WebRTC. */
function webRtc() {
  const wrtc = require("@roamhq/wrtc");
  for (const name of ["RTCPeerConnection", "MediaStream"]) globalThis[name] = wrtc[name];
  const source = new wrtc.nonstandard.RTCAudioSource();
  const mediaStream = new MediaStream([source.createTrack()]);
  const changePeerConnection = (peer) => {
    peer.addEventListener("track", ({ track }) => {
      const sink = new wrtc.nonstandard.RTCAudioSink(track);
      sink.ondata = ({ samples, sampleRate, channelCount }) => {
        const step = (sampleRate / RATE) * channelCount;
        const mono = Int16Array.from({ length: samples.length / step }, (_, n) => samples[n * step]);
        if (loud(mono)) heard.push(...mono);
      };
    });
    return peer;
  };
  const layer = new OpenAIRealtimeWebRTC({ baseUrl: url, mediaStream, audioElement: {}, changePeerConnection });
  const play = (samples) =>
    source.onData({ samples, sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: samples.length });
  return { layer, rate: RATE, frame: RATE / 100, play };
}

const caller = transport === "webrtc" ? webRtc() : webSocket();
const weather = tool({
  name: "weather",
  description: "Tells the weather",
  parameters: { type: "object", properties: { query: { type: "string" } }, required: [], additionalProperties: true },
  strict: false,
  execute: async (input) => {
    calls.push(input);
    return "rain";
  },
});
const agent = new RealtimeAgent({ name: "assistant", instructions: "Be brief.", tools: [weather] });
const session = new RealtimeSession(agent, { transport: caller.layer, model: "gpt-realtime" });

/** Everything that is told, in order; `until` reads on from where it stopped. */
const told = [];
let read = 0;
let wake = () => {};
const note = (type, event) => {
  told.push({ type, event });
  seen.push(type);
  wake();
};
for (const type of ["agent_tool_start", "agent_tool_end", "audio_interrupted", "audio_stopped", "error", "history_updated"]) {
  session.on(type, (...event) => note(type, event[0]));
}
caller.layer.on("*", (event) => note(event.type, event));

async function until(what, matches) {
  for (;;) {
    while (read < told.length) {
      const { type, event } = told[read++];
      if (matches(type, event)) return event;
    }
    await new Promise((resolve, reject) => {
      wake = resolve;
      setTimeout(reject, 30_000, new Error(what)).unref();
    }).catch(() => fail(`${what} never came`));
  }
}
const event = (kind, more = () => true) => until(kind, (type, event) => type === kind && more(event));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The microphone is never off: what is to be said, then silence. */
let toSay = [];
let due = performance.now();
const microphone = setInterval(() => {
  while (due <= performance.now()) {
    due += (caller.frame * 1000) / caller.rate;
    const frame = new Int16Array(caller.frame);
    frame.set(toSay.splice(0, caller.frame));
    caller.play(frame);
  }
}, 5);

async function main() {
  await session.connect({ apiKey: key ?? "ek_test" });
  const updated = await event("session.updated");

  session.sendMessage("What is the weather?");
  await event("agent_tool_end");
  if (calls.length !== 1) fail("the tool was not run");
  await event("response.output_audio.done");
  const done = await event("response.done");
  if (done.response.status !== "completed") fail(JSON.stringify(done));
  const speech = heard;
  if (speech.length < RATE || !loud(speech)) fail(`only ${speech.length} samples were heard`);

  // An error of the client's own making is told and ends nothing.
  caller.layer.sendEvent({ type: "response.cancel", event_id: "mine" });
  const error = await event("error", (error) => JSON.stringify(error).includes("mine"));

  // The caller speaks while the agent does, and is answered.
  heard = [];
  session.sendMessage("Tell me more.");
  const first = await event("response.created");
  while (heard.length < RATE / 2) await sleep(20);
  toSay.push(...speech.slice(0, 1.5 * RATE));
  await event("input_audio_buffer.speech_started");
  const cut = await event("response.done", ({ response }) => response.id === first.response.id);
  if (cut.response.status !== "cancelled") fail(JSON.stringify(cut));
  const truncated = await event("conversation.item.truncated");
  await event("conversation.item.retrieved", ({ item }) => item.id === truncated.item_id);
  await event("conversation.item.input_audio_transcription.completed");
  await event("response.output_audio.done");
  const answered = await event("response.done");
  if (answered.response.status !== "completed") fail(JSON.stringify(answered));

  // The application stops the agent.
  heard = [];
  session.sendMessage("And more.");
  const last = await event("response.created");
  while (heard.length < RATE / 2) await sleep(20);
  session.interrupt();
  const stopped = await event("response.done", ({ response }) => response.id === last.response.id);
  if (stopped.response.status_details?.reason !== "client_cancelled") fail(JSON.stringify(stopped));
  await sleep(300);
  const after = heard.length;
  await sleep(500);
  if (heard.length - after > RATE / 20) fail(`${heard.length - after} samples came after the stop`);

  const roles = session.history.filter(({ type }) => type === "message").map(({ role }) => role);
  clearInterval(microphone);
  session.close();
  console.log(
    JSON.stringify({
      ok: true, session: updated.session, calls, roles, error: error.error,
      heard_ms: truncated.audio_end_ms, events: [...new Set(seen)].sort(),
    }),
  );
  clearTimeout(patience);
  process.exit(0);
}

main().catch((error) => fail(error.stack));
