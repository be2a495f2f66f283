// Builds dist/, which is committed and embedded in the daemon; `--check` tells whether it is current, `--package` builds
// the npm package of js/ with its types.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const at = (...parts) => join(here, ...parts);
const common = { bundle: true, format: 'esm', target: 'es2022', charset: 'utf8', write: false, logLevel: 'warning', absWorkingDir: here };

async function bundle(options) {
  const { outputFiles } = await build({ ...common, ...options });
  return outputFiles[0].text;
}

/** The worklet, first: the library carries it as text. */
async function buildWorklet() {
  return bundle({ entryPoints: [at('js/src/worklet/processors.ts')], minify: true, format: 'iife' });
}

/** `worklet:source` is the text of the built worklet. */
export function workletPlugin(source) {
  return {
    name: 'worklet',
    setup(build) {
      build.onResolve({ filter: /^worklet:source$/ }, () => ({ path: 'source', namespace: 'worklet' }));
      build.onLoad({ filter: /.*/, namespace: 'worklet' }, () => ({ contents: source, loader: 'text' }));
    },
  };
}

/** The page takes the library from the file beside it, so that there is one copy. */
const libraryBeside = {
  name: 'library-beside',
  setup(build) {
    build.onResolve({ filter: /^@antiphon\/client$/ }, () => ({ path: './antiphon.js', external: true }));
  },
};

async function buildAll() {
  const worklet = await buildWorklet();
  const library = await bundle({ entryPoints: [at('js/src/index.ts')], plugins: [workletPlugin(worklet)] });
  const page = await bundle({ entryPoints: [at('page/page.ts')], plugins: [libraryBeside], minify: true });
  const copied = ['index.html', 'page.css', 'icon.svg'].map((name) => [name, readFileSync(at('page', name), 'utf8')]);
  return new Map([['antiphon-worklet.js', worklet], ['antiphon.js', library], ['page.js', page], ...copied]);
}

function write(files, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of files) writeFileSync(join(folder, name), text);
}

function check(files) {
  const found = new Map(readdirSync(at('dist')).map((name) => [name, readFileSync(at('dist', name), 'utf8')]));
  const names = new Set([...files.keys(), ...found.keys()]);
  const wrong = [...names].filter((name) => files.get(name) !== found.get(name));
  if (wrong.length > 0) {
    console.error(`clients/dist is not what clients/ builds to: ${wrong.join(', ')} (mend it by \`make clients\`)`);
    process.exit(1);
  }
  console.log(`clients/dist is current: ${[...files].map(([name, text]) => `${name} ${text.length}`).join(', ')} bytes`);
}

async function packageLibrary() {
  const files = await buildAll();
  write(new Map([['index.js', files.get('antiphon.js')], ['antiphon-worklet.js', files.get('antiphon-worklet.js')]]), at('js/dist'));
  execFileSync(at('node_modules/.bin/tsc'), ['-p', at('js'), '--emitDeclarationOnly'], { stdio: 'inherit' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--package')) await packageLibrary();
  else if (process.argv.includes('--check')) check(await buildAll());
  else write(await buildAll(), at('dist'));
}
