// The real daemon on free ports.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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

/**
 * A proxy before the daemon whose connections can be cut, as a network does that changes. It serves `files` (by path)
 * itself: scripts of tests, which so come from the page's own origin.
 */
export async function startNetwork(target, given = {}) {
  const [host, port] = target.split(':');
  const files = { ...dist(), ...given };
  const open = new Set();
  const server = createServer((request, response) => {
    if (files[request.url] !== undefined) {
      const kind = { css: 'text/css', ogg: 'audio/ogg', wav: 'audio/wav', '/': 'text/html' }[request.url.split('.').at(-1)];
      response.setHeader('content-type', kind ?? 'text/javascript');
      return response.end(files[request.url]);
    }
    const { method, url: path, headers } = request;
    const onward = ask({ host, port, method, path, headers }, (answer) => {
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
  const cut = () => open.forEach((socket) => socket.destroy());
  return {
    address: `127.0.0.1:${server.address().port}`,
    cut,
    async stop() {
      cut();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
