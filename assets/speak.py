"""Speaks each line of standard input into a WAV file of its own, with the time of each word.

Usage: speak.py --voice NAME --rate WORDS_PER_MINUTE --out PREFIX [--words FILE.json] < TEXT
Writes PREFIX-01.wav, PREFIX-02.wav, ...; word times come from the word events of libespeak-ng.
"""

import argparse
import array
import ctypes
import json
import sys
import wave

WORD, END = 1, 5  # espeak_EVENT_TYPE
RETRIEVAL, UTF8, RATE, VOLUME = 1, 1, 1, 2
SILENCE = 60  # samples below this amplitude are silence
LEAD_MS, TAIL_MS = 20, 60  # silence kept around a sentence


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_uint64),
    ]


def speak(lib, text):
    """The samples of `text`, and (index of its first character, ms) for each word event."""
    samples, events = array.array("h"), []

    def receive(data, count, event):
        if count:
            samples.frombytes(ctypes.string_at(data, 2 * count))
        index = 0
        while event[index].type:
            if event[index].type == WORD:
                events.append((event[index].text_position - 1, event[index].audio_position))
            index += 1
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    callback = kind(receive)
    lib.espeak_SetSynthCallback(callback)
    raw = text.encode()
    if lib.espeak_Synth(raw, len(raw) + 1, 0, 0, 0, UTF8, None, None) or lib.espeak_Synchronize():
        sys.exit(f"espeak-ng cannot speak: {text}")
    return samples, events


def words_of(text, events, trimmed_ms, duration_ms):
    """Each word with the white space that follows it, its start and its end; a word lasts until the next one."""
    words, at = [], 0
    for token in text.split():
        begin = text.index(token, at)
        at = begin + len(token)
        times = [ms for position, ms in events if begin <= position < at]
        start = times[0] if times else words[-1]["start_ms"] + trimmed_ms
        words.append({"text": token + " ", "start_ms": max(0, start - trimmed_ms)})
    words[-1]["text"] = words[-1]["text"].rstrip()
    # Words spoken as one ("there were") have one event: they share its time in proportion to their length.
    ends = [next((w["start_ms"] for w in words[i:] if w["start_ms"] > word["start_ms"]), duration_ms)
            for i, word in enumerate(words)]
    for index, word in enumerate(words):
        fused = [w for w, end in zip(words[index:], ends[index:]) if end == ends[index]]
        letters = sum(len(w["text"]) for w in fused)
        word["end_ms"] = word["start_ms"] + (ends[index] - word["start_ms"]) * len(word["text"]) // letters
        if len(fused) > 1:
            fused[1]["start_ms"] = word["end_ms"]
    return words


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--voice", required=True)
    arguments.add_argument("--rate", type=int, required=True)
    arguments.add_argument("--out", required=True)
    arguments.add_argument("--words")
    options = arguments.parse_args()
    lib = ctypes.CDLL("libespeak-ng.so.1")
    rate = lib.espeak_Initialize(RETRIEVAL, 0, None, 0)
    if rate <= 0 or lib.espeak_SetVoiceByName(options.voice.encode()):
        sys.exit(f"espeak-ng has no voice {options.voice}")
    lib.espeak_SetParameter(RATE, options.rate, 0)
    sentences = []
    for number, line in enumerate(filter(None, map(str.strip, sys.stdin)), 1):
        samples, events = speak(lib, line)
        voiced = [i for i, sample in enumerate(samples) if abs(sample) > SILENCE]
        first = max(0, voiced[0] - rate * LEAD_MS // 1000)
        kept = samples[first : voiced[-1] + rate * TAIL_MS // 1000]
        with wave.open(f"{options.out}-{number:02}.wav", "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(kept.tobytes())
        duration_ms = len(kept) * 1000 // rate
        words = words_of(line, events, first * 1000 // rate, duration_ms)
        sentences.append({"text": line, "duration_ms": duration_ms, "words": words})
    if options.words:
        with open(options.words, "w", encoding="utf-8") as out:
            out.write("[\n" + ",\n".join(json.dumps(sentence) for sentence in sentences) + "\n]\n")


if __name__ == "__main__":
    main()
