// The real daemon on free ports.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createSocket } from 'node:dgram';
import { createServer, request as ask } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

/** Which binary: `ANTIPHON_BIN`, or what cargo built. */
function binary() {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
  const found = [process.env.ANTIPHON_BIN, join(target, 'release/antiphon'), join(target, 'debug/antiphon')]
    .find((path) => path && existsSync(path));
  if (!found) throw new Error('there is no antiphon binary: build it first (cargo build --release)');
  return found;
}

/** Starts it; `{ http, control, stop }` when it is ready. */
export async function startDaemon(config = '', env = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'antiphon-browser-'));
  const readyFile = join(folder, 'ready.json');
  const file = join(folder, 'antiphon.toml');
  writeFileSync(file, config);
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('ANTIPHON_')));
  const child = spawn(binary(), ['run', '--config', file, '--ready-file', readyFile], {
    env: { ...clean, ANTIPHON_LISTEN__HTTP: '127.0.0.1:0', ANTIPHON_LISTEN__CONTROL: '127.0.0.1:0', ANTIPHON_LISTEN__WEBRTC: '127.0.0.1:0', ANTIPHON_LISTEN__QUIC: '127.0.0.1:0', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (text) => (stderr = (stderr + text).slice(-20_000)));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  for (let waited = 0; !existsSync(readyFile); waited += 20) {
    if (child.exitCode !== null || waited > 20_000) throw new Error(`the daemon does not run:\n${stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const bound = JSON.parse(readFileSync(readyFile, 'utf8'));
  return {
    http: bound.http,
    control: bound.control,
    log: () => stderr,
    async stop() {
      child.kill('SIGKILL');
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** While one works on the page: `ANTIPHON_DIST=1` takes it from clients/dist rather than from the binary. */
function dist() {
  if (!process.env.ANTIPHON_DIST) return {};
  const names = { '/': 'index.html', '/page.js': 'page.js', '/page.css': 'page.css', '/antiphon.js': 'antiphon.js', '/antiphon-worklet.js': 'antiphon-worklet.js' };
  return Object.fromEntries(Object.entries(names).map(([path, name]) => [path, readFileSync(join(root, 'clients/dist', name))]));
}

/** Passes an answer on in which the relay's UDP address is that of `udp`. */
async function through(udp, answer, response) {
  let body = '';
  for await (const part of answer.setEncoding('utf8')) body += part;
  body = body.replace(/( udp \d+ )(127\.0\.0\.1) (\d+)/g, (_, head, host, port) => {
    udp.target = { host, port: Number(port) };
    return `${head}${host} ${udp.port}`;
  });
  const { 'content-length': _length, 'transfer-encoding': _encoding, ...headers } = answer.headers;
  response.writeHead(answer.statusCode, headers);
  response.end(body);
}

/** A UDP port before the daemon's; what is known when it is cut is heard no more. */
async function startUdp() {
  const near = createSocket('udp4');
  const flows = new Map();
  const udp = { target: undefined, port: 0, cut: () => flows.forEach((flow) => (flow.dead = true)) };
  near.on('message', (packet, from) => {
    const key = `${from.address}:${from.port}`;
    let flow = flows.get(key);
    if (!flow) {
      flow = { dead: false, far: createSocket('udp4'), ...udp.target };
      flow.far.on('message', (answer) => flow.dead || near.send(answer, from.port, from.address));
      flow.far.on('error', () => undefined);
      flows.set(key, flow);
    }
    if (!flow.dead) flow.far.send(packet, flow.port, flow.host);
  });
  await new Promise((resolve) => near.bind(0, '127.0.0.1', resolve));
  udp.port = near.address().port;
  udp.stop = () => {
    near.close();
    flows.forEach(({ far }) => far.close());
  };
  return udp;
}

/**
 * A proxy before the daemon whose connections can be cut, as a network does that changes. It serves `files` (by path)
 * itself: scripts of tests, which so come from the page's own origin.
 */
export async function startNetwork(target, given = {}) {
  const [host, port] = target.split(':');
  const files = { ...dist(), ...given };
  const open = new Set();
  const state = { restarts: true };
  const udp = await startUdp();
  const server = createServer((request, response) => {
    if (files[request.url] !== undefined) {
      const kind = { css: 'text/css', ogg: 'audio/ogg', wav: 'audio/wav', '/': 'text/html' }[request.url.split('.').at(-1)];
      response.setHeader('content-type', kind ?? 'text/javascript');
      return response.end(files[request.url]);
    }
    const { method, url: path, headers } = request;
    if (method === 'PATCH' && !state.restarts) return response.writeHead(503).end();
    const onward = ask({ host, port, method, path, headers }, (answer) => {
      if (path.startsWith('/v1/session/webrtc') && method === 'POST') return through(udp, answer, response);
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  });
  server.on('connection', (socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
  });
  server.on('upgrade', (request, near) => {
    const far = connect(Number(port), host);
    const head = request.rawHeaders.reduce((text, part, i) => text + part + (i % 2 ? '\r\n' : ': '), '');
    far.write(`GET ${request.url} HTTP/1.1\r\n${head}\r\n`);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.setNoDelay(true);
      one.pipe(other);
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const cut = () => {
    open.forEach((socket) => socket.destroy());
    udp.cut();
  };
  return {
    address: `127.0.0.1:${server.address().port}`,
    cut,
    /** Whether requests to restart ICE reach the daemon. */
    letRestart: (restarts) => (state.restarts = restarts),
    async stop() {
      cut();
      udp.stop();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
