/** The transcript: what was said, and of interrupted answers what was heard. */

import type { Heard, Transcript } from '@antiphon/client';

interface Entry {
  element: HTMLLIElement;
  /** The whole text, before it was cut. */
  full: string;
  turn: number;
  shown: Transcript;
}

const BASIS: Record<string, string> = {
  reported: 'reported by this page',
  acked: 'acknowledged by the transport',
  marked: 'marked in the audio',
  paced: 'by the relay’s clock',
};
const CUT: Record<string, string> = { aligned: 'between words', estimated: 'in proportion' };
/** What fits into a long call; older lines go. */
const KEPT = 200;

function element<K extends keyof HTMLElementTagNameMap>(name: K, className: string, text = ''): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** What a figure rests on, in words. */
export function basis(figure: Heard): string {
  return `${BASIS[figure.basis] ?? figure.basis}, ± ${figure.error_ms} ms`;
}

/** What stands where words are missing: not every agent writes down what it hears. */
const WORDLESS = { user: '(you spoke)', agent: '(no words)' };

export class TranscriptView {
  private readonly entries = new Map<string, Entry>();
  /** By turn: the figure may come before the text is cut, or after. */
  private readonly heard = new Map<number, Heard>();
  private atEnd = true;

  constructor(
    private readonly list: HTMLElement,
    private readonly empty: HTMLElement,
  ) {
    list.addEventListener('scroll', () => {
      this.atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    });
    new ResizeObserver(() => this.follow()).observe(list);
  }

  /** Keeps the latest line in view, unless somebody reads further up. */
  private follow(): void {
    if (this.atEnd) this.list.scrollTop = this.list.scrollHeight;
  }

  clear(): void {
    this.entries.clear();
    this.heard.clear();
    this.list.replaceChildren();
  }

  /** A line of the page itself. */
  note(text: string): void {
    this.append(element('li', 'note', text));
  }

  on(transcript: Transcript, who: string): void {
    const known = this.entries.get(transcript.item);
    const entry = known ?? this.add(transcript, who);
    const text = transcript.text ?? '';
    if (!transcript.heard) entry.full = text;
    entry.turn = transcript.turn || entry.turn;
    entry.shown = transcript;
    this.draw(entry);
  }

  /** How much of a turn was heard. */
  onHeard(heard: Heard): void {
    this.heard.set(heard.turn, heard);
    for (const entry of this.entries.values()) {
      if (entry.turn === heard.turn && entry.shown.role === 'agent') this.draw(entry);
    }
  }

  private add(transcript: Transcript, who: string): Entry {
    const line = element('li', transcript.role);
    const entry = { element: line, full: '', turn: transcript.turn, shown: transcript };
    this.entries.set(transcript.item, entry);
    line.append(element('span', 'who', who), element('span', 'text'));
    this.append(line);
    return entry;
  }

  private append(line: HTMLLIElement): void {
    const { list } = this;
    this.empty.hidden = true;
    list.append(line);
    while (list.childElementCount > KEPT) list.firstElementChild?.remove();
    this.follow();
  }

  private draw(entry: Entry): void {
    const { element: line, shown, full } = entry;
    const text = line.querySelector('.text')!;
    const said = shown.text ?? '';
    text.replaceChildren(document.createTextNode(shown.text ?? WORDLESS[shown.role]));
    text.classList.toggle('wordless', shown.text === null);
    text.classList.toggle('partial', !shown.final);
    line.querySelector('.figures')?.remove();
    const { heard } = shown;
    if (!heard) return;
    const rest = full.startsWith(said) ? full.slice(said.length) : '';
    if (rest) {
      text.append(element('span', 'hidden-text', ' (not heard:) '), element('span', 'unheard', rest));
    }
    const figure = this.heard.get(entry.turn);
    const words = [`heard ${heard.ms} of ${heard.of_ms} ms`, figure && basis(figure), shown.cut && `cut ${CUT[shown.cut] ?? shown.cut}`];
    line.append(element('span', 'figures', words.filter(Boolean).join(' · ')));
    this.follow();
  }
}
