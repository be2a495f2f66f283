// Bundles the tests of the library, and runs them with node's own runner.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { workletPlugin } from '../build.mjs';

const folder = join(dirname(fileURLToPath(import.meta.url)), '../js/test');
const out = mkdtempSync(join(tmpdir(), 'antiphon-unit-'));
const tests = readdirSync(folder).filter((name) => name.endsWith('.test.ts'));
await build({
  entryPoints: tests.map((name) => join(folder, name)),
  outdir: out,
  outExtension: { '.js': '.mjs' },
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node18',
  sourcemap: 'inline',
  logLevel: 'warning',
  plugins: [workletPlugin('')],
});
const files = tests.map((name) => join(out, name.replace(/ts$/, 'mjs')));
const { status } = spawnSync(process.execPath, ['--enable-source-maps', '--test', ...files], { stdio: 'inherit' });
rmSync(out, { recursive: true, force: true });
process.exit(status ?? 1);
