// worklet:source
var source_default = '"use strict";(()=>{var d=class{constructor(e,t){this.rate=e;this.tell=t}rate;tell;open=!0;gain=1;since=0;sounding=0;told=!0;handle(e){this.open=e==="open",this.since=this.sounding=0,this.told=this.open}render(e,t){let[s,i]=this.open?[1,.015625]:[0,-.015625];for(let r=0;r<t.length;r++){let n=e?.[r]??0;this.gain!==s&&(this.gain=Math.max(0,Math.min(1,this.gain+i))),t[r]=n*this.gain,this.since+=1,n!==0&&(this.sounding=this.since)}this.told||this.since-this.sounding<.012*this.rate||(this.told=!0,this.tell({drained:this.sounding/this.rate}))}};function y(h,e){return e===0?h:y(e,h%e)}function g(h){let[e,t]=[1,1];for(let s=1;s<40;s++)t*=(h/(2*s))**2,e+=t;return e}var o=class{phases;stride;half;taps;constructor(e,t){let s=y(e,t);if(this.phases=t/s,this.stride=e/s,e===t){this.half=1,this.taps=new Float32Array(2),this.taps[0]=1;return}let i=.92*Math.min(1,t/e);this.half=Math.ceil(16/Math.min(1,t/e)),this.taps=new Float32Array(this.phases*this.half*2);for(let r=0;r<this.phases;r++)this.design(r,i)}design(e,t){let s=this.half*2,i=0;for(let r=0;r<s;r++){let n=r-this.half+1-e/this.phases,a=n/this.half,A=Math.abs(a)>=1?0:g(8*Math.sqrt(1-a*a))/g(8),M=n===0?1:Math.sin(Math.PI*t*n)/(Math.PI*t*n);i+=this.taps[e*s+r]=M*A}for(let r=0;r<s;r++)this.taps[e*s+r]/=i}apply(e,t,s){let i=this.half*2,r=t-this.half+1,n=0;for(let a=0;a<i;a++)n+=this.taps[s*i+a]*e.at(r+a);return n}},l=class{constructor(e){this.capacity=e;this.samples=new Float32Array(e),this.mask=e-1}capacity;from=0;end=0;samples;mask;at(e){return e>=this.from&&e<this.end?this.samples[e&this.mask]:0}restart(e){this.from=this.end=e}push(e,t=1){for(let s=0;s<e.length;s++)this.samples[this.end+s&this.mask]=e[s]*t;this.end+=e.length,this.from=Math.max(this.from,this.end-this.capacity)}};var b=10,S=.1,w=b,k=128,v=.02,F=.16,p=class{constructor(e,t,s){this.linkRate=e;this.contextRate=t;this.tell=s;this.kernel=new o(e,t),this.ring=new l(2**Math.ceil(Math.log2(b*e))),this.cushion=v*e}linkRate;contextRate;tell;overflowed=0;kernel;ring;head=0;rendered=0;phase=0;state="silent";gain=1;waitingSince=-1;cushion;ended=!1;starved=!1;told=0;pending=[];get buffered(){return Math.max(0,this.ring.end-this.head)}handle(e,t){if(this.state==="fading"){e.type!=="flush"&&this.pending.push(e);return}switch(e.type){case"audio":return this.push(e.pos,e.samples,t);case"end":this.ended=!0,this.starved||(this.cushion=Math.max(v*this.linkRate,this.cushion/2)),this.starved=!1;return;case"flush":return this.flush(t)}}push(e,t,s){this.buffered===0&&this.state==="silent"&&(this.starved&&!this.ended&&(this.cushion=Math.min(F*this.linkRate,this.cushion*2)),e!==this.ring.end&&this.ring.restart(e),this.head=e,this.phase=0,this.waitingSince=s);let i=e-this.ring.end;if(i<0||i>w*this.linkRate)return this.restart(e,t,s);let r=this.ring.capacity-this.kernel.half-this.buffered;if(i+t.length>r){this.overflowed+=t.length;return}i>0&&this.ring.push(new Float32Array(i)),this.ended=!1,this.ring.push(t,1/32768)}restart(e,t,s){this.stop(s,"dry"),this.head=this.ring.end,this.push(e,t,s)}flush(e){if(this.starved=!1,this.state==="playing"){this.state="fading";return}this.stop(e,"flush")}stop(e,t){this.state="silent",t==="flush"&&(this.ring.restart(this.ring.end),this.head=this.ring.end,this.phase=0,this.gain=0),this.starved=t==="dry"&&!this.ended,this.tell({type:"stop",frame:e,pos:this.rendered,cause:t,starved:this.starved});for(let s of this.pending.splice(0))this.handle(s,e)}mayBegin(e){let{buffered:t}=this;if(t===0)return!1;let s=(e-this.waitingSince)*this.linkRate/this.contextRate;return this.ended||t>=this.cushion||s>=this.cushion}render(e,t){if(e.fill(0),this.state==="silent"){if(!this.mayBegin(t))return;this.state="playing",this.told=t,this.tell({type:"begin",frame:t,pos:this.head})}let{kernel:s,ring:i}=this,r=1/k;for(let a=0;a<e.length;a++){if(this.head>=i.end)return this.stop(t+a,this.state==="fading"?"flush":"dry");if(this.state==="fading"){if(this.gain-=r,this.gain<=0)return this.stop(t+a,"flush")}else this.gain<1&&(this.gain=Math.min(1,this.gain+r));e[a]=s.apply(i,this.head,this.phase)*this.gain,this.phase+=s.stride,this.head+=Math.floor(this.phase/s.phases),this.phase%=s.phases,this.rendered=Math.min(this.head,i.end)}let n=t+e.length;n-this.told>=S*this.contextRate&&(this.told=n,this.tell({type:"progress",frame:n,pos:this.head,buffered:this.buffered}))}};var u=class{constructor(e,t,s,i){this.frameLength=s;this.deliver=i;this.kernel=new o(e,t),this.ring=new l(2**Math.ceil(Math.log2(this.kernel.half*2+4096))),this.frame=new Int16Array(s)}frameLength;deliver;kernel;ring;at=0;phase=0;frame;filled=0;push(e){let{kernel:t,ring:s}=this;for(s.push(e);this.at+t.half<s.end;){let i=Math.round(t.apply(s,this.at,this.phase)*32767);this.frame[this.filled++]=Math.max(-32768,Math.min(32767,i)),this.phase+=t.stride,this.at+=Math.floor(this.phase/t.phases),this.phase%=t.phases,this.filled===this.frameLength&&(this.deliver(this.frame),this.frame=new Int16Array(this.frameLength),this.filled=0)}}};var c=class extends AudioWorkletProcessor{player;closed=!1;constructor({processorOptions:{rate:e}}){super(),this.player=new p(e,sampleRate,t=>this.port.postMessage(t)),this.port.onmessage=({data:t})=>{t.type==="close"?this.closed=!0:this.player.handle(t,currentFrame)}}process(e,[t]){let[s,...i]=t??[];if(s){this.player.render(s,currentFrame);for(let r of i)r.set(s)}return!this.closed}},f=class extends AudioWorkletProcessor{recorder;closed=!1;constructor({processorOptions:{rate:e,frame:t}}){super(),this.recorder=new u(sampleRate,e,t,s=>this.port.postMessage(s.buffer,[s.buffer])),this.port.onmessage=()=>this.closed=!0}process([e]){let t=e?.[0];return t&&this.recorder.push(t),!this.closed}},m=class extends AudioWorkletProcessor{gate=new d(sampleRate,e=>this.port.postMessage(e));closed=!1;constructor(){super(),this.port.onmessage=({data:e})=>{e==="close"?this.closed=!0:this.gate.handle(e)}}process([e],[t]){let[s,...i]=t??[];if(s){this.gate.render(e?.[0],s);for(let r of i)r.set(s)}return!this.closed}};registerProcessor("antiphon-gate",m);registerProcessor("antiphon-player",c);registerProcessor("antiphon-recorder",f);})();\n';

// js/src/errors.ts
var AntiphonError = class _AntiphonError extends Error {
  constructor(code, message, retryable = false, retryAfterMs, field, reason, url) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.field = field;
    this.reason = reason;
    this.url = url;
  }
  code;
  retryable;
  retryAfterMs;
  field;
  reason;
  url;
  name = "AntiphonError";
  /** Of an `error` message. */
  static of(error) {
    const { code, message, retryable, retry_after_ms, field, reason, url } = error;
    return new _AntiphonError(code, message, retryable ?? false, retry_after_ms, field, reason, url);
  }
  /** Of a close without an `error` message before it. */
  static ofClose(code, reason) {
    if (code === 4401) {
      const message = "the relay asks for credentials, or refused those given";
      return new _AntiphonError("unauthorized", message, false, void 0, void 0, reason || void 0);
    }
    if (code === 4404) return new _AntiphonError("not_found", "there is no such agent or session");
    if (code === 4429) return new _AntiphonError("rate_limited", "a limit was reached", true);
    const why = reason ? `: ${reason}` : "";
    return new _AntiphonError("link_lost", `the connection to the relay was lost (${code}${why})`, true);
  }
};
function isResumable(code) {
  return code !== 1e3 && code !== 1013 && !(code >= 4400 && code < 4600);
}

// js/src/audio.ts
var DRAIN_MS = 150;
var RESUME_MS = 5e3;
var SPEECH = {
  channelCount: 1,
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true
};
async function openAudio(options) {
  const context = options.audioContext ?? new AudioContext({ latencyHint: "interactive" });
  try {
    const resumed = context.state === "suspended" ? context.resume() : void 0;
    const [stream] = await Promise.all([openMicrophone(options.microphone ?? true), loadWorklet(context, options)]);
    if (resumed) await sounding(resumed);
    return new BrowserAudio(context, stream, options);
  } catch (error) {
    if (!options.audioContext) void context.close();
    throw error;
  }
}
async function sounding(resumed) {
  let timer;
  const never = new Promise((_, reject) => {
    const help = "call `connect` from a click, and see that the machine has a loudspeaker";
    timer = setTimeout(() => reject(new AntiphonError("audio_unavailable", `sound does not start: ${help}`, true)), RESUME_MS);
  });
  await Promise.race([resumed, never]).finally(() => clearTimeout(timer));
}
async function openMicrophone(wanted) {
  if (wanted === false || wanted instanceof MediaStream) return wanted || void 0;
  if (!globalThis.isSecureContext || !navigator.mediaDevices) {
    const help = "open the page over https, or through http://localhost (for example an SSH port forward)";
    throw new AntiphonError("insecure_context", `browsers give the microphone to secure pages only: ${help}`);
  }
  const audio = wanted === true ? SPEECH : { ...SPEECH, ...wanted };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const name = error instanceof Error ? error.name : "";
    if (name === "NotAllowedError") {
      throw new AntiphonError("microphone_denied", "the microphone was not allowed; allow it for this page, then try again", true);
    }
    throw new AntiphonError("microphone_missing", `no microphone can be used (${name || String(error)})`, true);
  }
}
async function loadWorklet(context, options) {
  if (!context.audioWorklet) {
    throw new AntiphonError("insecure_context", "audio worklets are for secure pages only: use https or http://localhost");
  }
  const blob = options.workletUrl ? void 0 : URL.createObjectURL(new Blob([source_default], { type: "text/javascript" }));
  try {
    await context.audioWorklet.addModule(String(options.workletUrl ?? blob));
  } catch (error) {
    const help = options.workletUrl ? `is ${options.workletUrl} there?` : "set `workletUrl` if a Content-Security-Policy forbids blob:";
    throw new AntiphonError("audio_unavailable", `the audio worklet was not loaded (${String(error)}); ${help}`);
  } finally {
    if (blob) URL.revokeObjectURL(blob);
  }
}
var BrowserAudio = class {
  constructor(context, stream, options) {
    this.context = context;
    this.options = options;
    this.output = context;
    this.speaker = context.createGain();
    this.speaker.connect(context.destination);
    this.speaker.connect(this.meters.agent = this.meter());
    this.track = stream?.getAudioTracks()[0];
    if (stream && this.track) {
      this.source = context.createMediaStreamSource(stream);
      this.source.connect(this.meters.microphone = this.meter());
    }
  }
  context;
  options;
  output;
  track;
  speaker;
  source;
  meters = {};
  window = new Float32Array(1024);
  meter() {
    const meter = this.context.createAnalyser();
    meter.fftSize = this.window.length;
    return meter;
  }
  createPlayer(rate) {
    const node = new AudioWorkletNode(this.context, "antiphon-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { rate }
    });
    node.connect(this.speaker);
    const port = node.port;
    return Object.assign(port, {
      close: () => {
        port.postMessage({ type: "close" });
        node.disconnect();
      }
    });
  }
  createCapture(rate, frame, onFrame) {
    if (!this.source) return void 0;
    const { source } = this;
    const node = new AudioWorkletNode(this.context, "antiphon-recorder", {
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
      processorOptions: { rate, frame }
    });
    node.port.onmessage = ({ data }) => onFrame(data);
    source.connect(node);
    return {
      close: () => {
        source.disconnect(node);
        node.port.postMessage({ type: "close" });
        node.port.onmessage = null;
      }
    };
  }
  playTrack(track) {
    const stream = new MediaStream([track]);
    const element = new Audio();
    element.srcObject = stream;
    element.muted = true;
    void element.play().catch(() => void 0);
    const source = this.context.createMediaStreamSource(stream);
    const gate = new AudioWorkletNode(this.context, "antiphon-gate", {
      channelCount: 1,
      channelCountMode: "explicit",
      outputChannelCount: [1]
    });
    source.connect(gate).connect(this.speaker);
    let settle;
    gate.port.onmessage = ({ data }) => settle?.(data.drained);
    return {
      mute: () => {
        settle?.();
        gate.port.postMessage("shut");
        track.enabled = false;
        return new Promise((resolve) => {
          const timer = setTimeout(() => settle?.(), DRAIN_MS);
          settle = (drained) => {
            settle = void 0;
            clearTimeout(timer);
            track.enabled = true;
            resolve(drained);
          };
        });
      },
      unmute: () => {
        settle?.();
        gate.port.postMessage("open");
      },
      close: () => {
        settle?.();
        gate.port.postMessage("close");
        element.srcObject = null;
        source.disconnect();
        gate.disconnect();
      }
    };
  }
  setMicrophoneEnabled(enabled) {
    if (this.track) this.track.enabled = enabled;
  }
  level(of) {
    const meter = this.meters[of];
    if (!meter) return 0;
    meter.getFloatTimeDomainData(this.window);
    let sum = 0;
    for (const sample of this.window) sum += sample * sample;
    return Math.sqrt(sum / this.window.length);
  }
  close() {
    if (!(this.options.microphone instanceof MediaStream)) this.track?.stop();
    this.source?.disconnect();
    this.speaker.disconnect();
    if (!this.options.audioContext) void this.context.close();
  }
};

// js/src/endpoints.ts
async function fetchJson(base, path, get) {
  const url = new URL(path, base);
  const response = await get(url, { signal: AbortSignal.timeout(1e4) }).catch((error) => {
    throw new AntiphonError("unreachable", `${url.href} cannot be reached (${String(error)})`, true);
  });
  if (!response.ok) throw new AntiphonError("unreachable", `${url.href} answered ${response.status}`, response.status >= 500);
  return response.json();
}
async function fetchEndpoints(base, get = fetch) {
  const found = await fetchJson(base, "/v1/endpoints", get);
  const { protocol, hostname } = new URL(base);
  const secure = protocol === "https:";
  if (!secure && !isLoopback(hostname) && found.webtransport?.cert_sha256) delete found.webtransport;
  if (secure && found.websocket?.startsWith("ws:")) found.websocket = `wss${found.websocket.slice(2)}`;
  if (secure && found.webrtc?.startsWith("http:")) found.webrtc = `https${found.webrtc.slice(4)}`;
  return found;
}
async function fetchAgents(base, get = fetch) {
  return (await fetchJson(base, "/v1/agents", get)).agents;
}
function isLoopback(host) {
  return host === "localhost" || host.endsWith(".localhost") || host === "[::1]" || /^127(\.\d+){3}$/.test(host);
}
var ORDER = ["webtransport", "webrtc", "websocket"];
function choose(wanted, offered, usable) {
  const there = (name) => offered[name] !== void 0 && usable(name);
  if (Array.isArray(wanted)) return wanted.filter(there);
  const from = wanted === "auto" ? 0 : ORDER.indexOf(wanted);
  return ORDER.slice(from).filter(there);
}

// js/src/backoff.ts
var LONGEST_MS = 5e3;
var SHORTEST_MS = 250;
function delayBefore(attempt, random = Math.random()) {
  if (attempt <= 1) return 0;
  const full = Math.min(LONGEST_MS, SHORTEST_MS * 2 ** (attempt - 2));
  return Math.round(full * (1 - random / 2));
}

// js/src/emitter.ts
var Emitter = class {
  listeners = /* @__PURE__ */ new Map();
  /** Calls `listener` at every event of that name; gives a function that ends it. */
  on(name, listener) {
    const set = this.listeners.get(name) ?? /* @__PURE__ */ new Set();
    this.listeners.set(name, set);
    set.add(listener);
    return () => this.off(name, listener);
  }
  /** As `on`, for the next event only. */
  once(name, listener) {
    const off = this.on(name, (event) => {
      off();
      listener(event);
    });
    return off;
  }
  /** Calls `listener` no more. */
  off(name, listener) {
    this.listeners.get(name)?.delete(listener);
  }
  /** Whether anybody listens; what is costly to make is not made for nobody. */
  hasListener(name) {
    return (this.listeners.get(name)?.size ?? 0) > 0;
  }
  emit(name, event) {
    for (const listener of [...this.listeners.get(name) ?? []]) {
      try {
        listener(event);
      } catch (error) {
        globalThis.reportError(error);
      }
    }
  }
};

// js/src/lifeline.ts
var PING_MS = 2e3;
var SILENCE_MS = 7e3;
var ASLEEP_MS = 5e3;
var Lifeline = class {
  constructor(events, now) {
    this.events = events;
    this.last = this.ticked = now;
  }
  events;
  /** The last round trip; `undefined` before the first. */
  rttMs;
  last;
  ticked;
  /** Something came. */
  onAlive(now) {
    this.last = now;
  }
  /** An answer to a ping: `t` as it was sent. */
  onPong(t, now) {
    this.rttMs = Math.max(0, now - t / 1e3);
  }
  /** Call it every `PING_MS`. */
  tick(now) {
    if (now - this.ticked > PING_MS + ASLEEP_MS) this.last = now;
    this.ticked = now;
    if (now - this.last > SILENCE_MS) this.events.onLost();
    else this.events.onPing(Math.round(now * 1e3));
  }
};

// js/src/session.ts
var STATS_MS = 5e3;
var END_MS = 2e3;
var Session = class extends Emitter {
  constructor(parts) {
    super();
    this.parts = parts;
    this.now = parts.now ?? (() => performance.now());
  }
  parts;
  /** The agent that answers, as the relay told. */
  agent = { name: "" };
  id = "";
  conversationId = "";
  carrier;
  token = "";
  have = 0;
  lifeline;
  heartbeat;
  moving;
  microphone = true;
  done = false;
  wake;
  asked = [];
  messages = 0;
  now;
  /** The transport of the present link; `undefined` while there is none. */
  get transport() {
    return this.carrier?.transport;
  }
  /** The last measured round trip to the relay, in milliseconds. */
  get rttMs() {
    return this.lifeline?.rttMs;
  }
  get microphoneEnabled() {
    return this.microphone;
  }
  /** Opens the first link. Called by `connect`. */
  async begin() {
    await this.link(this.parts.start);
    this.heartbeat = setInterval(() => this.lifeline?.tick(this.now()), PING_MS);
  }
  /** Switches the microphone; the agent hears silence while it is off. */
  setMicrophoneEnabled(enabled) {
    if (enabled === this.microphone) return;
    this.microphone = enabled;
    this.parts.audio.setMicrophoneEnabled(enabled);
    this.carrier?.setMicrophoneEnabled(enabled);
    this.send({ type: "mic", on: enabled });
  }
  /** Sends a text message to the agent; gives its id. */
  sendText(text) {
    const id = `m-${++this.messages}`;
    this.send({ type: "message", id, text });
    return id;
  }
  /**
   * Silences the agent's present answer: here at once, and at the relay as soon as it hears of it. On a route where
   * interruptions can be taken back, `pause` silences it for the moment; `confirm` makes that final, and `resume` lets it go on
   * where it was heard last.
   */
  interrupt(action) {
    const goesOn = action === "confirm" || action === "resume";
    const report = goesOn ? void 0 : this.carrier?.playback.stop();
    this.send({ type: "interrupt", ...report && { pos: report.pos >>> 0 }, ...action && { action } });
  }
  /** Changes the agent's set-up, as far as the route allows; a field that is refused comes as an `error` event. */
  update(setup) {
    this.send({ type: "update", setup });
  }
  /** Sends any control message of the protocol. */
  send(message) {
    this.carrier?.send(message);
  }
  /** Level of the last 20 ms or so, root mean square, 0 to 1. */
  level(of) {
    return this.parts.audio.level(of);
  }
  /** Asks the relay for its figures and adds those of this end. */
  async stats() {
    const { carrier } = this;
    if (!carrier || this.done) throw new AntiphonError("not_connected", "there is no link to the relay now", true);
    const relay = await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.asked.splice(this.asked.indexOf(answer), 1);
        reject(new AntiphonError("link_lost", "the relay did not answer", true));
      }, STATS_MS);
      const answer = (stats) => (clearTimeout(timer), resolve(stats));
      this.asked.push(answer);
      carrier.send({ type: "stats" });
    });
    const { playback, droppedMs, transport } = carrier;
    const bufferedMs = playback.report()?.bufferedMs ?? 0;
    return { relay, transport, rttMs: this.rttMs, bufferedMs, droppedMs, starved: playback.starved };
  }
  /** Hangs up; resolves when the relay has confirmed it, or after two seconds. */
  end() {
    if (this.done) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.finish({ reason: "client_hangup", duration_ms: 0, messages: 0 }), END_MS);
      this.once("ended", () => (clearTimeout(timer), resolve()));
      if (this.carrier) this.send({ type: "end" });
      else this.finish({ reason: "client_hangup", duration_ms: 0, messages: 0 });
    });
  }
  /** The network has changed: comes back at once if it is gone, else asks whether the link still lives. */
  onNetworkChange() {
    this.wake?.();
    this.carrier?.onNetworkChange?.();
    this.lifeline?.tick(this.now());
  }
  /** Opens a link and makes it the present one. */
  async link(start) {
    const token = await this.parts.getToken?.();
    let mine;
    const isPresent = () => mine !== void 0 && mine === this.carrier;
    const events = {
      onMessage: (message) => isPresent() && this.onMessage(message),
      onReport: (report) => isPresent() && this.onReport(report),
      onAudio: (samples, pos) => this.hasListener("audio") && this.emit("audio", { samples: samples.slice(), pos }),
      onAlive: () => isPresent() && this.lifeline?.onAlive(this.now()),
      onClosed: (code, reason) => isPresent() && this.onClosed(code, reason)
    };
    const { carrier, started } = await this.parts.open(token ? { ...start, token } : start, events);
    if (this.done) {
      carrier.close(1e3);
      return started;
    }
    const old = this.carrier;
    this.carrier = mine = carrier;
    old?.close(4e3);
    this.adopt(started);
    if (!this.microphone) {
      carrier.setMicrophoneEnabled(false);
      carrier.send({ type: "mic", on: false });
    }
    return started;
  }
  adopt(started) {
    this.agent = started.agent;
    this.id = started.session_id;
    this.conversationId = started.conversation_id;
    this.token = started.resume_token;
    if (started.resumed === false) this.have = 0;
    this.lifeline = new Lifeline(
      {
        onPing: (t) => this.send({ type: "ping", t }),
        onLost: () => {
          const { carrier } = this;
          carrier?.close(4e3);
          this.onClosed(1006, "nothing came from the relay");
        }
      },
      this.now()
    );
    this.lifeline.tick(this.now());
  }
  onReport(report) {
    this.send({ type: "playout", pos: report.pos >>> 0, buffered_ms: report.bufferedMs });
    this.emit("playout", report);
  }
  onMessage(message) {
    this.lifeline?.onAlive(this.now());
    if (message.seq !== void 0) this.have = Math.max(this.have, message.seq);
    const { carrier } = this;
    switch (message.type) {
      case "started":
        return;
      case "pong":
        return this.lifeline?.onPong(message.t, this.now());
      case "stats":
        return this.asked.shift()?.(message);
      case "error":
        return this.emit("error", AntiphonError.of(message));
      case "ended":
        return this.finish(message);
      case "turn":
        carrier?.playback.onTurn(message);
        break;
      case "flush":
        void carrier?.playback.flush(message).then((pos) => carrier.send({ type: "playout", pos: pos >>> 0, flush: message.id }));
        break;
      case "draining":
        clearTimeout(this.moving);
        this.moving = setTimeout(() => void this.move(), message.reconnect_after_ms);
        break;
    }
    const { type, ...event } = message;
    this.emit(type, event);
  }
  /** The node goes down: a new link takes over while the old one still speaks. */
  async move() {
    try {
      const started = await this.link({ type: "start", resume: this.token, have: this.have });
      this.emit("reconnected", { resumed: started.resumed ?? false, transport: this.carrier.transport });
    } catch {
    }
  }
  onClosed(code, reason) {
    this.carrier = void 0;
    this.lifeline = void 0;
    if (this.done) return;
    clearTimeout(this.moving);
    if (isResumable(code)) void this.comeBack();
    else this.fail(code === 1e3 ? void 0 : AntiphonError.ofClose(code, reason));
  }
  async comeBack() {
    const until = this.now() + this.parts.reconnectForMs;
    for (let attempt = 1; !this.done; attempt++) {
      const delayMs = delayBefore(attempt);
      this.emit("reconnecting", { attempt, delayMs });
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, delayMs);
        this.wake = () => (clearTimeout(timer), resolve());
      });
      this.wake = void 0;
      if (this.done) return;
      try {
        const started = await this.link({ type: "start", resume: this.token, have: this.have });
        return this.emit("reconnected", { resumed: started.resumed ?? false, transport: this.carrier.transport });
      } catch (error) {
        const failure = error instanceof AntiphonError ? error : new AntiphonError("link_lost", String(error));
        if (!failure.retryable || this.now() >= until) return this.fail(failure);
      }
    }
  }
  fail(error) {
    if (error) this.emit("error", error);
    this.finish({ reason: error ? "client_lost" : "agent_hangup", duration_ms: 0, messages: 0 });
  }
  finish(ended) {
    if (this.done) return;
    this.done = true;
    clearInterval(this.heartbeat);
    clearTimeout(this.moving);
    this.wake?.();
    this.carrier?.close(1e3);
    this.carrier = void 0;
    this.parts.audio.close();
    const { reason, duration_ms, messages, stats } = ended;
    this.emit("ended", { reason, duration_ms, messages, stats });
  }
};

// js/src/messages.ts
function parse(text) {
  if (typeof text !== "string") return void 0;
  try {
    const value = JSON.parse(text);
    const good = typeof value === "object" && value !== null && typeof value.type === "string";
    return good ? value : void 0;
  } catch {
    return void 0;
  }
}

// js/src/sdp.ts
function withNack(sdp) {
  const opus = /^a=rtpmap:(\d+) opus\/48000/im.exec(sdp)?.[1];
  if (!opus || sdp.includes(`a=rtcp-fb:${opus} nack`)) return sdp;
  return sdp.replace(new RegExp(`^(a=rtpmap:${opus} .*)$`, "m"), (line2) => {
    const end = line2.endsWith("\r") ? "" : "\r";
    return `${line2}${end}
a=rtcp-fb:${opus} nack${line2.endsWith("\r") ? "\r" : ""}`;
  });
}
var line = (name, sdp) => new RegExp(`^a=${name}:(\\S+)`, "m").exec(sdp)?.[1];
function fragmentOf(offer) {
  const media = /^m=.*$/m.exec(offer)?.[0].trimEnd() ?? "m=audio 9 UDP/TLS/RTP/SAVPF 0";
  const lines = [`a=ice-ufrag:${line("ice-ufrag", offer)}`, `a=ice-pwd:${line("ice-pwd", offer)}`, media, `a=mid:${line("mid", offer) ?? 0}`];
  return `${lines.join("\r\n")}\r
`;
}
function renewed(answer, fragment) {
  const [ufrag, password] = [line("ice-ufrag", fragment), line("ice-pwd", fragment)];
  if (!ufrag || !password) throw new Error("the relay gave no credentials");
  return answer.replace(/^a=ice-ufrag:\S+/gm, `a=ice-ufrag:${ufrag}`).replace(/^a=ice-pwd:\S+/gm, `a=ice-pwd:${password}`).replace(/^(a=candidate:.*) ufrag \S+/gm, "$1");
}

// js/src/path_keeper.ts
var LOOK_MS = 500;
var QUIET_MS = 2500;
var AGAIN_MS = 1e3;
var GIVE_UP_MS = 5e3;
var ANSWER_MS = 2e3;
var ASLEEP_MS2 = 3e3;
var PathKeeper = class {
  /** `resource`: where the relay takes an ICE restart (RFC 9725 section 4.3); absent where a proxy hides it. */
  constructor(peer, resource, get, events) {
    this.peer = peer;
    this.resource = resource;
    this.get = get;
    this.events = events;
    this.timer = setInterval(() => void this.look(), LOOK_MS);
    this.timer.unref?.();
  }
  peer;
  resource;
  get;
  events;
  received = 0;
  heardAt = performance.now();
  lookedAt = performance.now();
  restartedAt = -Infinity;
  timer;
  close() {
    clearInterval(this.timer);
  }
  /** The path may be gone: another one is looked for; as long as none is found the present one stands. */
  restart() {
    const now = performance.now();
    if (!this.resource || now - this.restartedAt < AGAIN_MS) return;
    this.restartedAt = now;
    void restartIce(this.peer, this.resource, this.get).catch((error) => {
      if (error instanceof Refused) this.events.onLost(error.message);
    });
  }
  async look() {
    const received = await bytesReceived(this.peer);
    const now = performance.now();
    if (now - this.lookedAt > ASLEEP_MS2) this.heardAt = now - QUIET_MS;
    this.lookedAt = now;
    if (received !== this.received) {
      this.received = received;
      this.heardAt = now;
      return this.events.onAlive();
    }
    if (received === 0) return;
    if (now - this.heardAt >= GIVE_UP_MS) this.events.onLost("nothing came for some seconds");
    else if (now - this.heardAt >= QUIET_MS) this.restart();
  }
};
async function bytesReceived(peer) {
  let bytes = 0;
  const stats = await peer.getStats().catch(() => void 0);
  stats?.forEach((entry) => {
    if (entry.type === "candidate-pair") bytes += entry.bytesReceived ?? 0;
  });
  return bytes;
}
var Refused = class extends Error {
};
async function restartIce(peer, resource, get) {
  const answer = peer.remoteDescription?.sdp ?? "";
  const offer = await peer.createOffer({ iceRestart: true });
  await peer.setLocalDescription({ type: "offer", sdp: withNack(offer.sdp ?? "") });
  try {
    const response = await get(resource, {
      method: "PATCH",
      headers: { "content-type": "application/trickle-ice-sdpfrag", "if-match": "*" },
      body: fragmentOf(peer.localDescription?.sdp ?? ""),
      signal: AbortSignal.timeout(ANSWER_MS)
    });
    const said = `${resource} answered ${response.status}`;
    if (response.status >= 400 && response.status < 500) throw new Refused(said);
    if (!response.ok) throw new Error(said);
    await peer.setRemoteDescription({ type: "answer", sdp: renewed(answer, await response.text()) });
  } catch (error) {
    await peer.setLocalDescription({ type: "rollback" }).catch(() => void 0);
    throw error;
  }
}

// js/src/track_playback.ts
var CLOCK = 48e3;
var REPORT_MS = 100;
var WATCH_MS = 10;
var MUTED_MAX_MS = 1e3;
var SILENT_MS = 200;
var ESTIMATE_MS = 160;
var GRAPH_MS = 18;
var PULL_MS = 10;
var OVERLAP_MS = 5;
function since(a, b) {
  return a - b | 0;
}
var TrackPlayback = class {
  constructor(source, output, onReport, now = () => performance.timeOrigin + performance.now()) {
    this.source = source;
    this.output = output;
    this.onReport = onReport;
    this.now = now;
    this.timers.push(setInterval(() => this.tick(), REPORT_MS), setInterval(() => this.watch(), WATCH_MS));
  }
  source;
  output;
  onReport;
  now;
  starved = 0;
  muted = false;
  mutedAt = 0;
  /** The sample at which it was muted: the last one that is heard. */
  heardEnd;
  graphMs = GRAPH_MS;
  /** The first valid position after a flush, once its turn has been announced. */
  resumeAt;
  /** When which position left the jitter buffer, as each packet of the last moments had it. */
  seen = [];
  timers = [];
  onTurn(turn) {
    if (turn.phase === "start" && this.muted) this.resumeAt = turn.pos;
  }
  stop() {
    const report = this.report();
    this.mute();
    return report;
  }
  async flush(flush) {
    this.mute();
    return await this.heardEnd ?? flush.valid_from;
  }
  report() {
    const pos = this.position(-this.output.latency() * 1e3 - this.graphMs);
    return pos === void 0 ? void 0 : { pos, bufferedMs: 0 };
  }
  /** The sample that leaves the jitter buffer in `ms`. */
  position(ms) {
    this.observe();
    const last = this.seen.at(-1);
    if (!last) return void 0;
    const late = this.seen.reduce((most, { pos, at }) => {
      const behind = (at - last.at) * (CLOCK / 1e3) - since(pos, last.pos);
      return Math.max(most, behind);
    }, 0);
    const age = Math.min(this.now() - last.at, SILENT_MS) + ms - OVERLAP_MS;
    return last.pos + Math.round(age * (CLOCK / 1e3) - late) >>> 0;
  }
  /** Writes down the packet that was decoded last. */
  observe() {
    const [source] = this.source.getSynchronizationSources();
    if (!source || source.timestamp === this.seen.at(-1)?.at) return;
    this.seen.push({ pos: source.rtpTimestamp, at: source.timestamp });
    this.seen = this.seen.filter(({ at }) => source.timestamp - at < ESTIMATE_MS);
  }
  close() {
    for (const timer of this.timers) clearInterval(timer);
  }
  mute() {
    if (!this.muted) {
      this.mutedAt = this.now();
      this.heardEnd = this.silence();
    }
    this.muted = true;
    this.resumeAt = void 0;
  }
  /** Silence, and the last sample before it: what the jitter buffer gave until then, less what is on its way. */
  async silence() {
    this.observe();
    const { at } = this.seen.at(-1) ?? { at: this.mutedAt };
    const untilPull = PULL_MS - (this.mutedAt - at) % PULL_MS;
    const end = this.position(untilPull);
    const drained = await this.output.mute();
    if (drained !== void 0) this.graphMs = drained * 1e3 - untilPull;
    if (end === void 0) return void 0;
    return end - Math.round((this.graphMs + untilPull) * (CLOCK / 1e3)) >>> 0;
  }
  watch() {
    this.observe();
    if (!this.muted) return;
    const [source] = this.source.getSynchronizationSources();
    const valid = source && this.resumeAt !== void 0 && since(source.rtpTimestamp, this.resumeAt) >= 0;
    const late = this.resumeAt !== void 0 && this.now() - this.mutedAt > MUTED_MAX_MS;
    if (!valid && !late) return;
    this.muted = false;
    this.resumeAt = void 0;
    this.output.unmute();
  }
  tick() {
    const [source] = this.source.getSynchronizationSources();
    if (!source || this.muted || this.now() - source.timestamp > SILENT_MS) return;
    const report = this.report();
    if (report) this.onReport(report);
  }
};

// js/src/webrtc.ts
var CHANNEL = "antiphon.v1";
var FORMATS = { in: { codec: "opus", rate: 48e3 }, out: { codec: "opus", rate: 48e3 } };
var CONNECT_MS = 5e3;
var LINGER_MS = 3e4;
var ABOUT_CALLER = /* @__PURE__ */ new Set(["unauthorized", "forbidden", "not_found", "rate_limited", "resume_failed", "bad_message", "misdirected"]);
function webRtcOpener(options) {
  return async (start, events) => {
    const Peer = options.RTCPeerConnection ?? RTCPeerConnection;
    const peer = new Peer();
    const carrier = new WebRtcCarrier(peer, options.audio, events);
    try {
      const offer = await peer.createOffer();
      await peer.setLocalDescription({ type: "offer", sdp: withNack(offer.sdp ?? "") });
      const answer = await post(options, peer.localDescription?.sdp ?? offer.sdp ?? "", start);
      if (answer.ice_servers?.length) peer.setConfiguration({ iceServers: answer.ice_servers });
      await peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
      const started = await carrier.run(CONNECT_MS, answer.started);
      carrier.keepPath(answer.resource, options.fetch ?? ((input, init) => fetch(input, init)));
      return { carrier, started };
    } catch (error) {
      carrier.close(1e3);
      if (error instanceof AntiphonError) throw error;
      throw new AntiphonError("transport_unavailable", `no WebRTC call could be set up: ${String(error)}`, true);
    }
  };
}
async function post(options, sdp, start) {
  const { token, ...rest } = start;
  const headers = { "content-type": "application/json" };
  if (token) headers["authorization"] = `Bearer ${token}`;
  const response = await (options.fetch ?? fetch)(options.url, {
    method: "POST",
    headers,
    body: JSON.stringify({ sdp, start: { ...rest, audio: FORMATS } }),
    signal: AbortSignal.timeout(CONNECT_MS)
  });
  const body = await response.json().catch(() => ({}));
  const location = response.headers?.get("location");
  if (response.ok && body.sdp) return { ...body, ...location && { resource: new URL(location, options.url).href } };
  const said = body.detail ?? `${options.url} answered ${response.status}`;
  const after = Number(response.headers?.get("retry-after")) * 1e3 || void 0;
  const code = body.code !== void 0 && ABOUT_CALLER.has(body.code) ? body.code : "transport_unavailable";
  throw new AntiphonError(code, said, response.status >= 500, after, void 0, body.reason, body.url);
}
var WebRtcCarrier = class {
  constructor(peer, audio, events) {
    this.peer = peer;
    this.events = events;
    const transceiver = peer.addTransceiver(audio.track ?? "audio", { direction: audio.track ? "sendrecv" : "recvonly" });
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
      latency: () => (audio.output.outputLatency ?? 0) + (audio.output.baseLatency ?? 0)
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
        this.onStarted = void 0;
        resolve(started);
      };
    });
    this.channel.onmessage = ({ data }) => {
      const message = parse(data);
      if (message?.type === "started") this.onStarted?.(message);
      else if (message?.type === "error" && this.onStarted) this.onFailed?.(AntiphonError.of(message));
      else if (message && this.early) this.early.push(message);
      else if (message) events.onMessage(message);
    };
    this.channel.onclose = () => this.finish("the data channel was closed");
    peer.onconnectionstatechange = () => this.onState(peer.connectionState);
  }
  peer;
  events;
  transport = "webrtc";
  playback;
  droppedMs = 0;
  channel;
  waiting = [];
  /** What the relay said before the session took over: the channel may be quicker than the news that there is a path. */
  early = [];
  started;
  player;
  muted = false;
  closed = false;
  /** The session has started on this link, and may be resumed on another. */
  begun = false;
  path;
  onConnected;
  onStarted;
  onFailed;
  /** Resolves when packets can flow and the session has started. */
  async run(within2, started) {
    if (started) this.onStarted?.(started);
    const connected = new Promise((resolve) => this.onConnected = resolve);
    let timer;
    const failed = new Promise((_, reject) => {
      const late = `no path for WebRTC was found within ${within2 / 1e3} s`;
      timer = setTimeout(() => reject(new AntiphonError("transport_unavailable", late, true)), within2);
      this.onFailed = reject;
    });
    this.onState(this.peer.connectionState);
    try {
      await Promise.race([connected, failed]);
      const answer = await Promise.race([this.started, failed]);
      this.begun = true;
      setTimeout(() => this.tellEarly());
      return answer;
    } finally {
      clearTimeout(timer);
      this.onFailed = void 0;
    }
  }
  tellEarly() {
    const early = this.early ?? [];
    this.early = void 0;
    for (const message of early) this.events.onMessage(message);
  }
  onState(state) {
    if (state === "connected") this.onConnected?.();
    if (state === "failed" || state === "closed") this.finish(`the peer connection is ${state}`);
    if (state === "disconnected") this.path?.restart();
  }
  /** From now on a path that is lost is replaced under the link. */
  keepPath(resource, get) {
    if (this.closed) return;
    const onAlive = () => this.events.onAlive?.();
    this.path = new PathKeeper(this.peer, resource, get, { onAlive, onLost: (reason) => this.finish(reason) });
  }
  /** The old path may be gone without having been missed yet. */
  onNetworkChange() {
    this.path?.restart();
  }
  send(message) {
    const text = JSON.stringify(message);
    if (this.channel.readyState === "open") this.channel.send(text);
    else if (this.channel.readyState === "connecting" && this.waiting.length < 64) this.waiting.push(text);
  }
  setMicrophoneEnabled(_enabled) {
  }
  close(code) {
    this.release(code === 1e3);
  }
  finish(reason) {
    if (this.closed) return;
    this.onFailed?.(new AntiphonError("transport_unavailable", reason, true));
    this.release(!this.begun);
    this.events.onClosed(1006, reason);
  }
  /** Lets go of everything. Closing the connection is a hang-up for the relay: one that is to be resumed waits. */
  release(hangUp) {
    if (this.closed) return;
    this.closed = true;
    this.path?.close();
    this.playback.close();
    this.player?.close();
    this.channel.onclose = this.channel.onmessage = null;
    this.peer.onconnectionstatechange = null;
    if (hangUp) return this.peer.close();
    for (const sender of this.peer.getSenders?.() ?? []) void sender.replaceTrack(null).catch(() => void 0);
    const timer = setTimeout(() => this.peer.close(), LINGER_MS);
    timer.unref?.();
  }
};

// js/src/rtp.ts
var PCM16 = 96;
var HEADER = 12;
function readRtp(bytes) {
  if (bytes.length < HEADER || bytes[0] >> 6 !== 2) return void 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let from = HEADER + (bytes[0] & 15) * 4;
  if (bytes[0] & 16) {
    if (bytes.length < from + 4) return void 0;
    from += 4 + view.getUint16(from + 2) * 4;
  }
  const to = bytes.length - (bytes[0] & 32 ? bytes.at(-1) : 0);
  if (from > to) return void 0;
  return {
    payloadType: bytes[1] & 127,
    marker: (bytes[1] & 128) !== 0,
    seq: view.getUint16(2),
    timestamp: view.getUint32(4),
    payload: bytes.subarray(from, to)
  };
}
function writeRtp(prefix, packet, ssrc) {
  const bytes = new Uint8Array(prefix.length + HEADER + packet.payload.length);
  bytes.set(prefix);
  const view = new DataView(bytes.buffer, prefix.length);
  view.setUint8(0, 128);
  view.setUint8(1, packet.payloadType | (packet.marker ? 128 : 0));
  view.setUint16(2, packet.seq & 65535);
  view.setUint32(4, packet.timestamp >>> 0);
  view.setUint32(8, ssrc);
  bytes.set(packet.payload, prefix.length + HEADER);
  return bytes;
}
function extend(timestamp, last) {
  return Math.max(0, last + (timestamp - last | 0));
}

// js/src/varint.ts
function encodeVarint(value) {
  if (value < 64) return Uint8Array.of(value);
  if (value < 16384) return Uint8Array.of(64 | value >> 8, value & 255);
  return Uint8Array.of(128 | value >> 24, value >> 16 & 255, value >> 8 & 255, value & 255);
}
function decodeVarint(bytes, at = 0) {
  const first = bytes[at];
  if (first === void 0) return void 0;
  const end = at + (1 << (first >> 6));
  if (end > bytes.length) return void 0;
  let value = first & 63;
  for (let i = at + 1; i < end; i++) value = value * 256 + bytes[i];
  return { value, end };
}
function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

// js/src/audio_way.ts
var WAITING_MAX = 25;
var OUTGOING_MAX_AGE_MS = 300;
var ASSUMED_BYTES = 1100;
var RTP_HEADER = 12;
var PACKET_MAX = 65536;
var AUDIO = 1;
async function openAudioWay(link, flow, least) {
  const ssrc = Math.floor(Math.random() * 2 ** 32);
  const { datagrams } = link;
  if (datagrams) {
    const prefix = encodeVarint(flow);
    const room = (datagrams.maxDatagramSize ?? ASSUMED_BYTES) - prefix.length - RTP_HEADER;
    if (room >= least) return new Datagrams(datagrams, prefix, room, ssrc);
  }
  const stream = new AudioStream(link, flow, ssrc);
  await stream.open();
  return stream;
}
var Datagrams = class {
  constructor(datagrams, prefix, room, ssrc) {
    this.datagrams = datagrams;
    this.prefix = prefix;
    this.room = room;
    this.ssrc = ssrc;
    datagrams.outgoingHighWaterMark = WAITING_MAX;
    datagrams.outgoingMaxAge = OUTGOING_MAX_AGE_MS;
    this.writer = datagrams.writable.getWriter();
  }
  datagrams;
  prefix;
  room;
  ssrc;
  writer;
  write(packet) {
    return this.writer.write(writeRtp(this.prefix, packet, this.ssrc));
  }
  async read(onPacket) {
    const reader = this.datagrams.readable.getReader();
    for (; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const others = this.prefix.some((byte, i) => value[i] !== byte);
      const packet = others ? void 0 : readRtp(value.subarray(this.prefix.length));
      if (packet) onPacket(packet);
    }
  }
};
var AudioStream = class {
  constructor(link, flow, ssrc) {
    this.link = link;
    this.flow = flow;
    this.ssrc = ssrc;
  }
  link;
  flow;
  ssrc;
  room = PACKET_MAX - RTP_HEADER;
  reader;
  writer;
  async open() {
    const stream = await this.link.createBidirectionalStream();
    this.reader = stream.readable.getReader();
    this.writer = stream.writable.getWriter();
    void this.writer.write(concat(encodeVarint(AUDIO), encodeVarint(this.flow))).catch(() => void 0);
  }
  write(packet) {
    const length = encodeVarint(RTP_HEADER + packet.payload.length);
    return this.writer.write(writeRtp(length, packet, this.ssrc));
  }
  async read(onPacket) {
    for (; ; ) {
      const { reader, writer } = this;
      await readFrames(reader, onPacket).catch(() => void 0);
      void writer.abort().catch(() => void 0);
      await this.open();
    }
  }
};
async function readFrames(reader, onPacket) {
  let unread = new Uint8Array(0);
  for (; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    unread = unread.length ? concat(unread, value) : value;
    for (let length = decodeVarint(unread); length; length = decodeVarint(unread)) {
      if (length.value > PACKET_MAX) throw new Error("a packet is too large");
      const end = length.end + length.value;
      if (unread.length < end) break;
      const packet = readRtp(unread.subarray(length.end, end));
      unread = unread.subarray(end);
      if (packet) onPacket(packet);
    }
  }
}

// js/src/playout_clock.ts
var KEPT = 16;
var PlayoutClock = class {
  constructor(linkRate, contextRate) {
    this.linkRate = linkRate;
    this.contextRate = contextRate;
  }
  linkRate;
  contextRate;
  runs = [];
  on(event) {
    if (event.type === "begin") {
      this.runs.push({ frame: event.frame, pos: event.pos, end: Infinity });
      if (this.runs.length > KEPT) this.runs.shift();
    } else if (event.type === "stop") {
      const last = this.runs.at(-1);
      if (last && last.end === Infinity) last.end = event.pos;
    }
  }
  /** The position of the sample at context time `seconds`; `undefined` before the first sound. */
  positionAt(seconds) {
    const frame = seconds * this.contextRate;
    let run = this.runs.findLast((candidate) => candidate.frame <= frame);
    if (!run) {
      run = this.runs[0];
      return run?.pos;
    }
    const played = Math.round((frame - run.frame) * this.linkRate / this.contextRate);
    return Math.min(run.end, run.pos + played);
  }
};
function audibleTime(clock, now) {
  const stamp = clock.getOutputTimestamp?.();
  if (stamp?.contextTime && stamp.performanceTime) {
    const time = stamp.contextTime + (now - stamp.performanceTime) / 1e3;
    if (time <= clock.currentTime && time > clock.currentTime - 1) return time;
  }
  return Math.max(0, clock.currentTime - (clock.outputLatency ?? 0) - (clock.baseLatency ?? 0));
}

// js/src/pcm_playback.ts
var STOP_MS = 1e3;
var PcmPlayback = class {
  constructor(port, output, rate, events, now = () => performance.now()) {
    this.port = port;
    this.output = output;
    this.rate = rate;
    this.events = events;
    this.now = now;
    this.clock = new PlayoutClock(rate, output.sampleRate);
    port.onmessage = ({ data }) => this.onPlayer(data);
  }
  port;
  output;
  rate;
  events;
  now;
  starved = 0;
  received = 0;
  discardUntil = 0;
  playing = false;
  waiting = [];
  /** The last sample that was heard when sound stopped last. */
  heardEnd = 0;
  /** Everything before it was played or is void. */
  settled = 0;
  clock;
  timer;
  /** One binary frame of the link: little-endian samples. */
  onFrame(frame) {
    this.onSamples(new Int16Array(frame, 0, frame.byteLength >> 1), this.received);
  }
  /** Samples that stand at a position, in order. */
  onSamples(samples, pos) {
    this.received = pos + samples.length;
    if (this.discardUntil > this.now()) return;
    this.discardUntil = 0;
    this.events.onAudio(samples, pos);
    this.port.postMessage({ type: "audio", pos, samples }, [samples.buffer]);
  }
  onTurn(turn) {
    if (turn.phase === "end") this.port.postMessage({ type: "end" });
  }
  stop() {
    const report = this.report();
    if (this.playing || this.settled < this.received) this.discardUntil = this.now() + STOP_MS;
    this.port.postMessage({ type: "flush" });
    return report;
  }
  flush(_flush) {
    this.discardUntil = 0;
    return new Promise((resolve) => {
      this.waiting.push(resolve);
      this.port.postMessage({ type: "flush" });
    });
  }
  report() {
    const pos = this.clock.positionAt(audibleTime(this.output, this.now()));
    if (pos === void 0) return void 0;
    return { pos, bufferedMs: Math.max(0, Math.round((this.received - pos) * 1e3 / this.rate)) };
  }
  close() {
    clearTimeout(this.timer);
    this.port.onmessage = null;
    for (const resolve of this.waiting.splice(0)) resolve(this.heardEnd);
  }
  onPlayer(event) {
    this.clock.on(event);
    switch (event.type) {
      case "begin":
        this.playing = true;
        clearTimeout(this.timer);
        return;
      case "progress":
        return this.tell();
      case "stop":
        this.heardEnd = event.pos;
        this.settled = event.cause === "flush" ? this.received : event.pos;
        if (event.starved) this.starved += 1;
        if (event.cause === "flush") {
          for (const resolve of this.waiting.splice(0)) resolve(event.pos);
        } else if (this.playing) {
          this.onDry(event.frame);
        }
        this.playing = false;
    }
  }
  /** The last report comes when the last sample has left the speaker. */
  onDry(frame) {
    const silentAt = frame / this.output.sampleRate;
    const wait = (silentAt - audibleTime(this.output, this.now())) * 1e3;
    this.tell();
    clearTimeout(this.timer);
    if (wait > 1) this.timer = setTimeout(() => this.tell(), wait + 1);
  }
  tell() {
    const report = this.report();
    if (report) this.events.onReport(report);
  }
};

// js/src/rtp_order.ts
var WAIT_MS = 40;
var JUMP_S = 1;
var KEPT2 = 16;
var RtpOrder = class {
  constructor(rate, deliver) {
    this.rate = rate;
    this.deliver = deliver;
  }
  rate;
  deliver;
  /** Samples of silence in place of packets that did not come. */
  concealed = 0;
  /** The position after the last sample that was delivered; `undefined` before the first. */
  next;
  last = 0;
  validFrom = 0;
  held = [];
  timer;
  push(packet) {
    const pos = this.last = extend(packet.timestamp, this.last);
    if (pos < this.validFrom || this.next !== void 0 && pos < this.next) return;
    if (this.held.some((other) => other.pos === pos)) return;
    const samples = new Int16Array(packet.payload.slice().buffer, 0, packet.payload.length >> 1);
    this.held.push({ pos, marker: packet.marker, samples });
    this.held.sort((one, other) => one.pos - other.pos);
    this.drain(this.held.length > KEPT2);
  }
  /** Audio before this position is void. */
  flush(validFrom) {
    this.validFrom = extend(validFrom, this.last);
    this.held = this.held.filter(({ pos }) => pos >= this.validFrom);
    if (this.next !== void 0 && this.next < this.validFrom) this.next = void 0;
    this.drain(false);
  }
  close() {
    clearTimeout(this.timer);
    this.held = [];
  }
  /** Delivers what follows; with `given up` also what stands behind a gap. */
  drain(givenUp) {
    for (let first = this.held[0]; first; first = this.held[0]) {
      const gap = this.next === void 0 ? 0 : first.pos - this.next;
      const paused = first.marker || gap > JUMP_S * this.rate;
      if (gap > 0 && !paused) {
        if (!givenUp) break;
        this.concealed += gap;
        this.deliver(new Int16Array(gap), this.next);
        givenUp = false;
      }
      this.held.shift();
      this.next = first.pos + first.samples.length;
      this.deliver(first.samples, first.pos);
    }
    clearTimeout(this.timer);
    if (this.held.length > 0) this.timer = setTimeout(() => this.drain(true), WAIT_MS);
  }
};

// js/src/webtransport.ts
var RATE = 24e3;
var FLOW = 1;
var FORMATS2 = { in: { codec: "pcm16", rate: RATE }, out: { codec: "pcm16", rate: RATE } };
var READY_MS = 1500;
var START_MS = 1e4;
var MESSAGE_MAX = 65536;
var FRAMES = [RATE / 50, RATE / 100];
function isTrusted(userAgent) {
  return !/AppleWebKit/.test(userAgent) || /Chrom(e|ium)\//.test(userAgent);
}
function bytesOf(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
async function within(promise, ms, late) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new AntiphonError("transport_unavailable", late, true)), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
function webTransportOpener(options) {
  return async (start, events) => {
    const Transport = options.WebTransport ?? WebTransport;
    let transport;
    try {
      transport = new Transport(options.url, {
        congestionControl: "low-latency",
        requireUnreliable: true,
        ...options.certificate && {
          serverCertificateHashes: [{ algorithm: "sha-256", value: bytesOf(options.certificate) }]
        }
      });
      transport.closed.catch(() => void 0);
      await within(transport.ready, READY_MS, `${options.url} did not answer within ${READY_MS / 1e3} s`);
      const stream = await transport.createBidirectionalStream();
      const way = await openAudioWay(transport, FLOW, FRAMES[1] * 2);
      const carrier = new WebTransportCarrier(transport, stream, way, options.audio, events);
      const started = await within(carrier.start({ ...start, audio: FORMATS2 }), START_MS, "the relay did not start");
      return { carrier, started };
    } catch (error) {
      try {
        transport?.close({ closeCode: 4e3, reason: "" });
      } catch {
      }
      if (error instanceof AntiphonError) throw error;
      throw new AntiphonError("transport_unavailable", `no WebTransport call could be set up: ${String(error)}`, true);
    }
  };
}
var WebTransportCarrier = class {
  constructor(link, stream, way, audio, events) {
    this.link = link;
    this.stream = stream;
    this.way = way;
    this.audio = audio;
    this.events = events;
    this.player = audio.createPlayer(RATE);
    this.playback = new RtpPlayback(this.player, audio.output, events);
    this.control = stream.writable.getWriter();
  }
  link;
  stream;
  way;
  audio;
  events;
  transport = "webtransport";
  playback;
  droppedMs = 0;
  player;
  control;
  capture;
  enabled = true;
  closed = false;
  seq = 0;
  sent = 0;
  /** Packets that the network has not taken. */
  waiting = 0;
  /** The next packet begins a stretch of speech. */
  marker = true;
  refusal;
  onStarted;
  onFailed;
  /** Says `start` and waits for the answer; then the microphone is on. */
  async start(start) {
    const started = new Promise((resolve, reject) => [this.onStarted, this.onFailed] = [resolve, reject]);
    void this.control.write(concat(encodeVarint(0), encodeVarint(FLOW))).catch(() => void 0);
    this.send(start);
    void this.readControl();
    void this.way.read((packet) => this.playback.onPacket(packet)).catch(() => void 0);
    return started;
  }
  async readControl() {
    const reader = this.stream.readable.getReader();
    let unread = new Uint8Array(0);
    try {
      for (; ; ) {
        const { value, done } = await reader.read();
        if (done) break;
        unread = concat(unread, value);
        for (let length = decodeVarint(unread); length; length = decodeVarint(unread)) {
          if (length.value > MESSAGE_MAX) throw new Error("a message is too large");
          const end = length.end + length.value;
          if (unread.length < end) break;
          const message = parse(new TextDecoder().decode(unread.subarray(length.end, end)));
          unread = unread.subarray(end);
          if (message) this.onMessage(message);
          if (message?.type === "started") await new Promise((resolve) => setTimeout(resolve));
        }
      }
    } catch {
    }
    const { code, reason } = await this.ending();
    this.finish(code, reason);
  }
  /** Why it ended: the code of the stream, else that of the connection. */
  async ending() {
    const stopped = this.control.closed.then(
      () => ({ code: 1e3, reason: "" }),
      (error) => {
        if (error?.streamErrorCode === void 0 || error.streamErrorCode === null) throw error;
        return { code: error.streamErrorCode, reason: "" };
      }
    );
    const closed = this.link.closed.then(({ closeCode, reason }) => ({ code: closeCode || 1006, reason: reason ?? "" }));
    const unknown = new Promise(
      (resolve) => setTimeout(() => resolve({ code: 1006, reason: "the connection was lost" }), 500)
    );
    return Promise.race([Promise.any([stopped, closed]).catch(() => unknown), unknown]);
  }
  onMessage(message) {
    if (!this.onStarted) return this.events.onMessage(message);
    if (message.type === "error") this.refusal = AntiphonError.of(message);
    if (message.type !== "started") return;
    this.onStarted(message);
    this.onStarted = this.onFailed = void 0;
    const frame = FRAMES.find((samples) => samples * 2 <= this.way.room) ?? FRAMES[1];
    this.capture = this.audio.createCapture(RATE, frame, (samples) => this.sendFrame(samples));
  }
  sendFrame(frame) {
    const timestamp = this.sent;
    this.sent += frame.byteLength / 2;
    if (!this.enabled || this.closed) {
      this.marker = true;
      return;
    }
    if (this.waiting >= WAITING_MAX) {
      this.droppedMs += frame.byteLength / 2 / RATE * 1e3;
      this.seq += 1;
      return;
    }
    const packet = { payloadType: PCM16, marker: this.marker, seq: this.seq, timestamp, payload: new Uint8Array(frame) };
    this.marker = false;
    this.seq += 1;
    this.waiting += 1;
    const written = () => void (this.waiting -= 1);
    this.way.write(packet).then(written, written);
  }
  send(message) {
    if (this.closed) return;
    const text = new TextEncoder().encode(JSON.stringify(message));
    void this.control.write(concat(encodeVarint(text.length), text)).catch(() => void 0);
  }
  setMicrophoneEnabled(enabled) {
    this.enabled = enabled;
  }
  close(code) {
    if (this.closed) return;
    this.release();
    this.hangUp(code);
  }
  hangUp(code) {
    try {
      this.link.close({ closeCode: code, reason: "" });
    } catch {
    }
  }
  finish(code, reason) {
    if (this.closed) return;
    this.onFailed?.(this.refusal ?? AntiphonError.ofClose(code, reason));
    this.release();
    this.hangUp(code === 1e3 ? 1e3 : 4e3);
    this.events.onClosed(code, reason);
  }
  release() {
    this.closed = true;
    this.capture?.close();
    this.playback.close();
    this.player.close();
  }
};
var RtpPlayback = class extends PcmPlayback {
  order;
  constructor(port, output, events) {
    super(port, output, RATE, events);
    this.order = new RtpOrder(RATE, (samples, pos) => this.onSamples(samples, pos));
  }
  onPacket(packet) {
    if (packet.payloadType === PCM16) this.order.push(packet);
  }
  flush(flush) {
    const heard = super.flush(flush);
    this.order.flush(flush.valid_from);
    return heard;
  }
  close() {
    this.order.close();
    super.close();
  }
};

// js/src/websocket.ts
var RATE2 = 24e3;
var FRAME = RATE2 / 50;
var FORMATS3 = { in: { codec: "pcm16", rate: RATE2 }, out: { codec: "pcm16", rate: RATE2 } };
var BACKLOG = RATE2;
var OPEN_MS = 1e4;
function webSocketOpener(options) {
  return (start, events) => new Promise((resolve, reject) => {
    const Socket = options.WebSocket ?? WebSocket;
    const socket = new Socket(options.url, ["antiphon.v1"]);
    socket.binaryType = "arraybuffer";
    const carrier = new WebSocketCarrier(socket, options.audio, events);
    let refusal;
    const fail = (error) => {
      clearTimeout(timer);
      carrier.close(4e3);
      reject(error);
    };
    const timer = setTimeout(
      () => fail(new AntiphonError("unreachable", `no answer from ${options.url} within ${OPEN_MS / 1e3} s`, true)),
      OPEN_MS
    );
    socket.onopen = () => socket.send(JSON.stringify({ ...start, audio: FORMATS3 }));
    socket.onclose = ({ code, reason }) => {
      const why = `${options.url} cannot be reached, or does not list this page's origin in \`http.origins\``;
      const unreached = new AntiphonError("unreachable", why, true);
      fail(refusal ?? (code === 1006 ? unreached : AntiphonError.ofClose(code, reason)));
    };
    socket.onmessage = ({ data }) => {
      const message = parse(data);
      if (message?.type === "error") refusal = AntiphonError.of(message);
      if (message?.type !== "started") return;
      clearTimeout(timer);
      carrier.run();
      resolve({ carrier, started: message });
    };
  });
}
var WebSocketCarrier = class {
  constructor(socket, audio, events) {
    this.socket = socket;
    this.audio = audio;
    this.events = events;
    this.player = audio.createPlayer(RATE2);
    this.playback = new PcmPlayback(this.player, audio.output, RATE2, events);
  }
  socket;
  audio;
  events;
  transport = "websocket";
  playback;
  droppedMs = 0;
  player;
  capture;
  enabled = true;
  closed = false;
  run() {
    const { socket, events } = this;
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) return this.playback.onFrame(data);
      const message = parse(data);
      if (message) events.onMessage(message);
    };
    socket.onclose = ({ code, reason }) => this.finish(code, reason);
    this.capture = this.audio.createCapture(RATE2, FRAME, (frame) => this.sendFrame(frame));
  }
  sendFrame(frame) {
    if (!this.enabled || this.socket.readyState !== 1) return;
    if (this.socket.bufferedAmount > BACKLOG) this.droppedMs += frame.byteLength / 2 / RATE2 * 1e3;
    else this.socket.send(frame);
  }
  send(message) {
    if (this.socket.readyState === 1) this.socket.send(JSON.stringify(message));
  }
  setMicrophoneEnabled(enabled) {
    this.enabled = enabled;
  }
  close(code) {
    if (this.closed) return;
    this.release();
    this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
    this.socket.close(code);
  }
  finish(code, reason) {
    if (this.closed) return;
    this.release();
    this.events.onClosed(code, reason);
  }
  release() {
    this.closed = true;
    this.capture?.close();
    this.playback.close();
    this.player.close();
  }
};

// js/src/connect.ts
async function connect(options, environment = {}) {
  const [offered, audio] = await both(
    fetchEndpoints(options.url, environment.fetch ?? ((input, init) => fetch(input, init))),
    (environment.openAudio ?? openAudio)(options)
  );
  try {
    const open = follower(options, offered, audio, environment);
    const session = new Session({
      open,
      audio,
      start: startOf(options),
      getToken: options.getToken ?? (options.token === void 0 ? void 0 : () => options.token),
      reconnectForMs: options.reconnectForMs ?? 3e4
    });
    await session.begin();
    const network = environment.network ?? globalThis;
    const onChange = () => session.onNetworkChange();
    network.addEventListener?.("online", onChange);
    session.once("ended", () => network.removeEventListener?.("online", onChange));
    return session;
  } catch (error) {
    audio.close();
    throw error;
  }
}
async function both(endpoints, audio) {
  try {
    return await Promise.all([endpoints, audio]);
  } catch (error) {
    void audio.then((opened) => opened.close()).catch(() => void 0);
    throw error;
  }
}
function startOf(options) {
  const start = { type: "start" };
  if (options.agent !== void 0) start.agent = options.agent;
  if (options.conversationId !== void 0) start.conversation_id = options.conversationId;
  if (options.context !== void 0) start.context = options.context;
  if (options.metadata !== void 0) start.metadata = options.metadata;
  if (options.setup !== void 0) start.setup = options.setup;
  return start;
}
function follower(options, offered, audio, environment) {
  let open = opener(options, offered, audio, environment);
  return async (start, events) => {
    try {
      return await open(start, events);
    } catch (error) {
      if (!(error instanceof AntiphonError) || error.code !== "misdirected" || error.url === void 0) throw error;
      const there = await fetchEndpoints(error.url, environment.fetch ?? ((input, init) => fetch(input, init)));
      open = opener({ ...options, url: error.url }, there, audio, environment);
      return open(start, events);
    }
  };
}
function opener(options, offered, audio, environment) {
  const Peer = environment.RTCPeerConnection ?? globalThis.RTCPeerConnection;
  const Web = environment.WebTransport ?? globalThis.WebTransport;
  const usable = (name) => ({ websocket: true, webrtc: Peer !== void 0, webtransport: Web !== void 0 && isTrusted(globalThis.navigator?.userAgent ?? "") })[name];
  let order = choose(options.transport ?? "auto", offered, usable);
  if (order.length === 0) {
    throw new AntiphonError("transport_unavailable", `${options.url} offers none of the transports that can be used here`);
  }
  const { WebSocket: WebSocket2, fetch: fetch2 } = environment;
  const { url: web = "", cert_sha256: certificate } = offered.webtransport ?? {};
  const opens = {
    websocket: webSocketOpener({ url: offered.websocket ?? "", audio, ...WebSocket2 && { WebSocket: WebSocket2 } }),
    webrtc: webRtcOpener({ url: offered.webrtc ?? "", audio, RTCPeerConnection: Peer, ...fetch2 && { fetch: fetch2 } }),
    webtransport: webTransportOpener({ url: web, certificate, audio, WebTransport: Web })
  };
  return async (start, events) => {
    let failure;
    for (const transport of order) {
      try {
        return await opens[transport](start, events);
      } catch (error) {
        failure = error;
        const local = error instanceof AntiphonError && error.code === "transport_unavailable";
        if (!local) break;
        order = order.length > 1 ? order.filter((other) => other !== transport) : order;
      }
    }
    throw failure;
  };
}
export {
  AntiphonError,
  Session,
  connect,
  fetchAgents,
  fetchEndpoints
};
