// The demo page in Chromium, against the real daemon.
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { root, startDaemon, startNetwork } from './daemon.mjs';
import * as recorder from './recorder.mjs';
import { correlation, envelope, writeSpeech } from './speech.mjs';
import { sentences } from './story.mjs';

const shots = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'screenshots');
const wav = join(shots, 'microphone.wav');
/** From the click to silence, in milliseconds. */
const BAR_MS = 60;
const INTERRUPTIONS = 5;
const LABELS = { websocket: 'WebSocket', webrtc: 'WebRTC', webtransport: 'WebTransport' };
const TRANSPORTS = Object.keys(LABELS);

let browser;
let daemon;
let network;
let spoken;
let story;

before(async () => {
  mkdirSync(shots, { recursive: true });
  spoken = writeSpeech(wav, { before: 4, after: 120, text: 'Excuse me, may I ask you something about the sailors?' });
  daemon = await startDaemon('[agent.echo]\ndelay_ms = 300\n');
  story = sentences();
  const files = Object.fromEntries(story.map(({ file }, i) => [`/story-${i}.ogg`, file]));
  network = await startNetwork(daemon.http, { ...recorder.files, ...files });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=user-gesture-required',
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
      `--use-file-for-fake-audio-capture=${wav}%noloop`, '--host-resolver-rules=MAP relay.test 127.0.0.1',
    ],
  });
});

after(async () => {
  await browser?.close();
  await network?.stop();
  await daemon?.stop();
});

/** A page of the demo; anything that the browser complains about fails the test. */
async function open(t, { address = network.address, before, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  await recorder.install(page);
  if (before) await page.addInitScript(before);
  await page.goto(`http://${address}/`);
  t.after(() => context.close());
  return { page, complaints };
}

const button = (page, name) => page.getByRole('button', { name, exact: true });
const log = (page) => page.getByRole('log', { name: 'Transcript' });
const rms = (page) => recorder.envelope(page).then((frames) => Math.max(0, ...frames.slice(-10)));

async function until(what, wanted, within = 15_000) {
  for (const began = Date.now(); Date.now() - began < within; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const value = await wanted();
    if (value) return value;
  }
  throw new Error(`${what}: not within ${within} ms\n${daemon.log()}`);
}

/** How the first interrupted sentence is shown, if there is one. */
const cutLine = (page) => log(page).evaluate((log) => {
  const line = [...log.querySelectorAll('li.agent')].find((line) => line.querySelector('.figures'));
  const parts = ['.text', '.unheard'].map((part) => line?.querySelector(part));
  return line && {
    figures: line.querySelector('.figures').textContent,
    whole: parts[0].textContent,
    unheard: parts[1]?.textContent,
    colours: parts.map((part) => part && getComputedStyle(part).color),
    log: log.innerText,
  };
});

/**
 * Of the sentence that was cut last: what the relay says was heard, and which place of it sounded last. `undefined` if that is
 * not found: in a pause, or where packets were late and the jitter buffer has stretched the sound.
 */
async function toldAndHeard(page) {
  const cut = log(page).locator('li.agent', { has: page.locator('.figures') }).last();
  const [, told, error] = (await cut.locator('.figures').innerText()).match(/heard (\d+) of .* ± (\d+) ms/).map(Number);
  const text = await cut.locator('.text').evaluate((line) => {
    const shown = line.cloneNode(true);
    shown.querySelector('.hidden-text')?.remove();
    return shown.textContent.trim();
  });
  const index = story.findIndex((sentence) => sentence.text.trim() === text);
  assert.ok(index >= 0, `“${text}” is a sentence of the story`);
  const { ms, quietMs, alike } = await recorder.lastHeard(page, `/story-${index}.ogg`);
  if (alike <= 0.8) return undefined;
  const recorded = ms + story[index].skip_ms;
  return { told, error, recorded, latest: recorded + quietMs };
}

for (const transport of TRANSPORTS) test(`one talks, interrupts, and sees what was heard, by ${transport}`, { timeout: 120_000 }, async (t) => {
  const { page, complaints } = await open(t);
  await until('agents', () => page.getByRole('combobox', { name: 'Agent' }).evaluate((menu) => menu.value === 'storyteller'));
  await page.getByRole('combobox', { name: 'Transport' }).selectOption(transport);
  await page.screenshot({ path: join(shots, 'before-1280.png') });
  await button(page, 'Talk').click();
  await button(page, 'Hang up').waitFor();
  await until('the story', () => log(page).getByText('Hello, and welcome').count());
  await until('sound', async () => (await rms(page)) > 0.01);

  // The file speaks after four seconds: the agent stops, and is told at which word.
  const cut = await until('the cut', async () => {
    const line = await cutLine(page);
    return / ± \d+ ms · cut/.test(line?.figures) && line;
  });
  assert.match(cut.figures, /^heard \d+ of \d+ ms · reported by this page, ± \d+ ms · cut between words$/);
  assert.ok(cut.unheard && cut.whole.endsWith(cut.unheard), JSON.stringify(cut));
  const [heard, of] = cut.figures.match(/\d+/g).map(Number);
  t.diagnostic(`by voice: heard ${heard} of ${of} ms`);
  assert.ok(heard > 1000 && heard < of, `heard ${heard} of ${of} ms`);
  assert.notEqual(cut.colours[0], cut.colours[1]);
  await until('the user in the transcript', () => log(page).locator('li.user').count());

  const silences = [];
  for (let tries = 0; silences.length < INTERRUPTIONS; tries++) {
    assert.ok(tries < INTERRUPTIONS + 3, 'what sounded last is found in the sentence');
    await until('silence', async () => (await rms(page)) < 0.001);
    await until('the next sentence', async () => (await rms(page)) > 0.02);
    await page.waitForTimeout(700);
    const figures = await log(page).locator('.figures').count();
    await button(page, 'Interrupt').click();
    await until('the figure', async () => (await log(page).locator('.figures').count()) > figures);
    await page.waitForTimeout(300);
    const silence = await recorder.silenceAfterClick(page);
    const place = await toldAndHeard(page);
    if (place) silences.push({ ...silence, ...place });
  }
  const show = (key) => silences.map((silence) => silence[key].toFixed(0)).join(' ');
  t.diagnostic(`click to the last sample that is not silent, ms: rendered ${show('rendered')}, at the ear ${show('audible')}`);
  t.diagnostic(`heard, ms: told by the relay ${show('told')}, recorded ${show('recorded')}`);
  for (const { rendered } of silences) assert.ok(rendered < BAR_MS, `silent ${rendered.toFixed(0)} ms after the click`);
  for (const { told, error, recorded, latest } of silences) {
    const heard = `${recorded.toFixed(0)} to ${latest.toFixed(0)} ms`;
    assert.ok(told >= recorded - error && told <= latest + error, `told ${told} ± ${error} ms, of the sentence were heard ${heard}`);
  }
  // The output's own latency, which is on top, is the machine's.
  const audible = silences.map((silence) => silence.audible).sort((a, b) => a - b)[INTERRUPTIONS >> 1];
  assert.ok(audible < BAR_MS, `at the ear silent ${audible.toFixed(0)} ms after the click`);

  await until('the plot', () => page.locator('#plot polyline').count().then((lines) => lines === 3));
  assert.ok((await page.locator('#plot .cut').count()) >= INTERRUPTIONS);
  for (const id of ['up', 'down', 'rtt', 'heard']) assert.match(await page.locator(`#${id}`).innerText(), /\d.* ms/);
  await page.screenshot({ path: join(shots, `talking-1280-${transport}.png`) });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: join(shots, `talking-390-${transport}.png`), fullPage: true });
  const { wide, view } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, view: innerWidth }));
  assert.ok(wide <= view, `the page is ${wide} px wide on a screen of ${view}`);
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.screenshot({ path: join(shots, `dark-390-${transport}.png`), fullPage: true });
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.screenshot({ path: join(shots, `dark-1280-${transport}.png`) });

  await button(page, 'Hang up').click();
  await until('the end', () => page.getByRole('status').innerText().then((text) => text === 'Ended: client hangup'));
  await button(page, 'Talk').waitFor();
  assert.deepEqual(complaints, []);
});

for (const transport of TRANSPORTS) test(`a pause that is taken back goes on where the voice stopped, by ${transport}`, { timeout: 60_000 }, async (t) => {
  const patient = await startDaemon('[[route]]\nname = "all"\nto = "storyteller"\nbarge_in.reversible = true\n');
  const files = { ...recorder.files, '/story-0.ogg': story[0].file };
  const way = await startNetwork(patient.http, files);
  t.after(() => way.stop().then(() => patient.stop()));
  const { page, complaints } = await open(t, { address: way.address });
  await page.getByRole('heading', { level: 1 }).click(); // sound needs a gesture
  await page.evaluate(async (transport) => {
    const { connect } = await import('/antiphon.js');
    globalThis.session = await connect({ url: location.origin, transport: [transport], workletUrl: '/antiphon-worklet.js' });
    session.setMicrophoneEnabled(false);
    globalThis.told = [];
    for (const type of ['flush', 'heard', 'turn']) session.on(type, (message) => told.push({ type, ...message }));
  }, transport);
  const told = (type) => page.evaluate((type) => told.filter((message) => message.type === type), type);
  await until('sound', async () => (await rms(page)) > 0.02);
  await page.waitForTimeout(800);
  // In the middle of a word, so that the place can be found.
  await page.evaluate(async () => {
    while (recorded.frames.at(-1).rms < 0.03) await new Promise((resolve) => setTimeout(resolve, 5));
    session.interrupt('pause');
  });
  await until('the flush', async () => (await told('flush')).some(({ pause }) => pause));
  await until('silence', async () => (await rms(page)) < 0.001);
  const frames = (await recorder.envelope(page)).length;
  await page.waitForTimeout(300);
  assert.ok((await rms(page)) < 0.001, 'it waits');
  await page.evaluate(() => session.interrupt('resume'));
  await until('the voice', async () => (await rms(page)) > 0.02);
  await page.waitForTimeout(400);
  const stopped = await recorder.lastHeard(page, '/story-0.ogg', frames);
  const went = await recorder.firstHeard(page, '/story-0.ogg', frames);
  t.diagnostic(`stopped at ${stopped.ms.toFixed(0)} ms, went on at ${went.ms.toFixed(0)} ms (alike ${stopped.alike.toFixed(2)}, ${went.alike.toFixed(2)})`);
  assert.ok(stopped.alike > 0.8 && went.alike > 0.7, 'the places are found');
  assert.ok(Math.abs(went.ms - stopped.ms) <= 80, `it stopped at ${stopped.ms.toFixed(0)} ms and went on at ${went.ms.toFixed(0)}`);
  assert.deepEqual(await told('heard'), [], 'nothing was cut');
  await page.evaluate(() => session.end());
  assert.deepEqual(complaints, []);
});

function takeDatagrams() {
  Object.defineProperty(WebTransport.prototype, 'datagrams', { value: undefined });
}

const ECHOES = [...TRANSPORTS.map((transport) => [transport, transport]), ['webtransport', 'webtransport without datagrams', takeDatagrams]];
for (const [transport, by, before] of ECHOES) test(`an echo gives back the words of the microphone, by ${by}`, { timeout: 60_000 }, async (t) => {
  const { page, complaints } = await open(t, { before });
  await page.getByRole('combobox', { name: 'Agent' }).selectOption('echo');
  await page.getByRole('combobox', { name: 'Transport' }).selectOption(transport);
  await button(page, 'Talk').click();
  const wanted = envelope(spoken.words, spoken.rate);
  await page.waitForTimeout(4000 + wanted.length * 20 + 2000);
  const found = correlation(wanted, await recorder.envelope(page));
  t.diagnostic(`correlation of the energies of what was said and what came back: ${found.toFixed(3)}`);
  assert.ok(found > 0.7, `correlation ${found}`);
  await page.getByRole('meter', { name: 'Your voice' }).waitFor();
  await log(page).getByText(`Connected to echo over ${LABELS[transport]}`).waitFor();
  assert.deepEqual(complaints, []);
});

/** Takes the present link away from the page, without a word to either side's library. */
const lose = {
  websocket: () => network.cut(),
  webrtc: () => {
    network.letRestart(false);
    network.cut();
  },
  webtransport: (page) => page.evaluate(() => opened.at(-1).close({ closeCode: 4000 })),
};

function keepLinks() {
  globalThis.opened = [];
  globalThis.WebTransport = class extends WebTransport {
    constructor(...given) {
      super(...given);
      opened.push(this);
    }
  };
}

for (const transport of TRANSPORTS) test(`a call outlives a network that changes, by ${transport}`, { timeout: 60_000 }, async (t) => {
  const { page } = await open(t, { before: keepLinks });
  t.after(() => network.letRestart(true));
  await page.getByRole('combobox', { name: 'Transport' }).selectOption(transport);
  await button(page, 'Talk').click();
  await until('sound', async () => (await rms(page)) > 0.01);
  await button(page, 'Mute').click();
  assert.equal(await button(page, 'Muted').getAttribute('aria-pressed'), 'true');
  await lose[transport](page);
  await log(page).getByText(`The connection was lost and has come back, over ${LABELS[transport]}.`).waitFor();
  await until('sound again', async () => (await rms(page)) > 0.01);
  await log(page).getByText('Long before there were telephones').waitFor();
});

test('over WebRTC a path that is lost is replaced under the call', { timeout: 60_000 }, async (t) => {
  const { page } = await open(t);
  await page.getByRole('combobox', { name: 'Transport' }).selectOption('webrtc');
  await button(page, 'Talk').click();
  const soundsFor = () => recorder.envelope(page).then((frames) => frames.slice(-10).filter((rms) => rms > 0.005).length);
  await until('sound', async () => (await soundsFor()) > 5);
  const began = Date.now();
  network.cut();
  await until('silence', async () => (await soundsFor()) === 0);
  await until('sound again', async () => (await soundsFor()) > 0);
  t.diagnostic(`${Date.now() - began} ms from the loss to sound again, the pauses of the story included`);
  await log(page).getByText('Long before there were telephones').waitFor();
  assert.equal(await log(page).getByText('The connection was lost').count(), 0, 'the link has stayed');
});

test('the page can be used by keyboard', { timeout: 60_000 }, async (t) => {
  const { page } = await open(t);
  await until('agents', () => page.getByRole('combobox', { name: 'Agent' }).evaluate((menu) => menu.value === 'storyteller'));
  const reached = [];
  for (let i = 0; i < 3; i++) {
    await page.keyboard.press('Tab');
    reached.push(await page.evaluate(() => document.activeElement.id));
  }
  assert.deepEqual(reached, ['agent', 'transport', 'talk']);
  await page.keyboard.press('Enter');
  await until('sound', async () => (await rms(page)) > 0.01);
  await page.waitForTimeout(500);
  await page.keyboard.press('Escape');
  await log(page).getByText(/heard \d+ of \d+ ms/).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), 'talk', 'the focus stays where it was');
});

test('a page that is not secure says what to do', { timeout: 30_000 }, async (t) => {
  const port = daemon.http.split(':')[1];
  const { page } = await open(t, { address: `relay.test:${port}` });
  await page.getByRole('heading', { name: 'The microphone needs a secure page' }).waitFor();
  await page.getByText(`ssh -N -L ${port}:127.0.0.1:${port} relay.test`).waitFor();
  assert.equal(await button(page, 'Talk').isDisabled(), true);
  await page.screenshot({ path: join(shots, 'insecure-1280.png') });
});

test('without the demo the address says in words what this is', async () => {
  const plain = await startDaemon('[demo]\nenabled = false\n');
  try {
    const html = { headers: { accept: 'text/html' } };
    const page = await (await fetch(`http://${plain.http}/`, html)).text();
    assert.match(page, /Open a WebSocket to/);
    assert.doesNotMatch(page, /<script/);
    assert.equal((await fetch(`http://${plain.http}/page.js`)).status, 404);
    assert.equal((await fetch(`http://${plain.http}/antiphon.js`)).headers.get('content-type'), 'text/javascript; charset=utf-8');
  } finally {
    await plain.stop();
  }
});
