// The demo page in Firefox, another engine than most: a call over each transport, with the real daemon.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';
import { root, startDaemon, startNetwork } from './daemon.mjs';
import * as recorder from './recorder.mjs';
import { correlation, envelope, writeSpeech } from './speech.mjs';
import { sentences } from './story.mjs';

const shots = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'screenshots');
const LABELS = { websocket: 'WebSocket', webrtc: 'WebRTC', webtransport: 'WebTransport' };
const BAR_MS = 60;

let browser;
let daemon;
let network;
let story;
let spoken;

/** Firefox takes no file for a microphone: the page is given one that says the words once a second has passed. */
function speakInPage() {
  navigator.mediaDevices.getUserMedia = async () => {
    const context = new AudioContext();
    const microphone = context.createMediaStreamDestination();
    const words = context.createBufferSource();
    words.buffer = await context.decodeAudioData(await (await fetch('/speech.wav')).arrayBuffer());
    words.connect(microphone);
    words.start(context.currentTime + 1);
    return microphone.stream;
  };
}

function beSilentInPage() {
  navigator.mediaDevices.getUserMedia = async () => new AudioContext().createMediaStreamDestination().stream;
}

before(async () => {
  mkdirSync(shots, { recursive: true });
  // Firefox pairs no address of its own with one of the loopback interface.
  const own = Object.values(networkInterfaces()).flat().find(({ family, internal }) => family === 'IPv4' && !internal);
  assert.ok(own, 'this machine has an address besides 127.0.0.1');
  daemon = await startDaemon('[agent.echo]\ndelay_ms = 300\n', { ANTIPHON_LISTEN__WEBRTC: `${own.address}:0` });
  story = sentences();
  const wav = join(shots, 'speech.wav');
  spoken = writeSpeech(wav, { before: 3, after: 1, text: 'Excuse me, may I ask you something about the sailors?' });
  const files = Object.fromEntries(story.map(({ file }, i) => [`/story-${i}.ogg`, file]));
  network = await startNetwork(daemon.http, { ...recorder.files, ...files, '/speech.wav': readFileSync(wav) });
  browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: process.env.FIREFOX ?? '/usr/bin/firefox-esr',
    headless: true,
    extraPrefsFirefox: {
      'media.autoplay.default': 0,
      // Sound without a sound card.
      'media.cubeb.force_mock_context': true,
    },
  });
}, { timeout: 60_000 });

after(async () => {
  await browser?.close();
  await network?.stop();
  await daemon?.stop();
});

async function until(what, wanted, within = 15_000) {
  for (const began = Date.now(); Date.now() - began < within; await new Promise((resolve) => setTimeout(resolve, 50))) {
    const value = await wanted();
    if (value) return value;
  }
  throw new Error(`${what}: not within ${within} ms\n${daemon.log()}`);
}

const text = (page, selector) => page.$eval(selector, (element) => element.innerText);
const rms = (page) => recorder.envelope(page).then((frames) => Math.max(0, ...frames.slice(-10)));

async function open(t, { speaks = false } = {}) {
  const page = await browser.newPage();
  t.after(() => page.close());
  page.on('pageerror', (error) => t.diagnostic(`page: ${error}`));
  page.on('console', (message) => ['error', 'warn'].includes(message.type()) && t.diagnostic(`page: ${message.text()}`));
  await page.setViewport({ width: 1280, height: 900 });
  await page.evaluateOnNewDocument(speaks ? speakInPage : beSilentInPage);
  await recorder.install(page);
  await page.goto(`http://${network.address}/`);
  await until('agents', () => page.$eval('#agent', (menu) => menu.value === 'storyteller'));
  return page;
}

for (const transport of Object.keys(LABELS)) {
  test(`Firefox hears the story and interrupts it, by ${transport}`, { timeout: 90_000 }, async (t) => {
    const page = await open(t);
    await page.select('#transport', transport);
    await page.click('#talk');
    await until('the call', async () => (await text(page, '#transcript')).includes(`Connected to storyteller over ${LABELS[transport]}`));
    await until('sound', async () => (await rms(page)) > 0.01);
    await page.waitForFunction('document.querySelector("#transcript").innerText.includes("Hello, and welcome")');
    for (let i = 0; i < 2; i++) {
      await until('silence or speech', async () => (await rms(page)) > 0.02);
      await new Promise((resolve) => setTimeout(resolve, 700));
      const figures = await page.$$eval('.figures', (all) => all.length);
      await page.click('#interrupt');
      await until('the figure', async () => (await page.$$eval('.figures', (all) => all.length)) > figures);
      await new Promise((resolve) => setTimeout(resolve, 400));
      const { rendered } = await recorder.silenceAfterClick(page);
      const cut = await page.$$eval('li.agent:has(.figures)', (all) => {
        const shown = all.at(-1).querySelector('.text').cloneNode(true);
        shown.querySelector('.hidden-text')?.remove();
        return { words: shown.textContent.trim(), figures: all.at(-1).querySelector('.figures').innerText };
      });
      const [, told, error] = cut.figures.match(/heard (\d+) of .* ± (\d+) ms/).map(Number);
      const index = story.findIndex((sentence) => sentence.text.trim() === cut.words);
      const { ms, quietMs, alike } = await recorder.lastHeard(page, `/story-${index}.ogg`);
      const recorded = ms + story[index].skip_ms;
      const latest = recorded + quietMs;
      t.diagnostic(`silent ${rendered.toFixed(0)} ms after the click; told ${told} ± ${error}, recorded ${recorded.toFixed(0)} (${alike.toFixed(2)})`);
      assert.ok(rendered < BAR_MS, `silent ${rendered.toFixed(0)} ms after the click`);
      assert.ok(alike > 0.8, `what sounded last is found in the sentence (${alike.toFixed(2)})`);
      const heard = `${recorded.toFixed(0)} to ${latest.toFixed(0)} ms`;
      assert.ok(told >= recorded - error && told <= latest + error, `told ${told} ± ${error} ms, of the sentence were heard ${heard}`);
    }
    await page.screenshot({ path: join(shots, `firefox-${transport}.png`) });
    await page.click('#talk');
    await until('the end', async () => (await text(page, '#status')) === 'Ended: client hangup');
  });
}

for (const transport of Object.keys(LABELS)) {
  test(`Firefox is given back its own words, by ${transport}`, { timeout: 60_000 }, async (t) => {
    const page = await open(t, { speaks: true });
    await page.select('#agent', 'echo');
    await page.select('#transport', transport);
    await page.click('#talk');
    const wanted = envelope(spoken.words, spoken.rate);
    let found = -1;
    for (const until = Date.now() + 20_000; found < 0.7 && Date.now() < until; ) {
      await new Promise((resolve) => setTimeout(resolve, 1000));
      found = correlation(wanted, await recorder.envelope(page));
    }
    assert.match(await text(page, '#transcript'), new RegExp(`over ${LABELS[transport]}`));
    t.diagnostic(`correlation of the energies of what was said and what came back: ${found.toFixed(3)}`);
    assert.ok(found > 0.7, `correlation ${found}`);
  });
}
