#!/bin/sh
# Makes the spoken assets from their texts: needs espeak-ng, opus-tools and python3 (Debian packages of these names).
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

opus() { # opus IN.wav OUT.ogg SERIAL
    opusenc --quiet --discard-comments --padding 0 --speech --vbr --bitrate 32 --comp 10 --framesize 20 \
        --serial "$3" "$1" "$2"
}

# The story: one Ogg Opus stream per sentence, chained in one file, and the time of each word.
python3 speak.py --voice en --rate 165 --words story.json --out "$work/story" <story.txt
: >story.ogg
number=0
for wav in "$work"/story-*.wav; do
    number=$((number + 1))
    opus "$wav" "$work/sentence.ogg" "$number"
    cat "$work/sentence.ogg" >>story.ogg
done

# What `antiphon call` says when it is given no file.
printf '%s\n' 'Excuse me, may I ask you something? I would like to hear the part about the choirs once more.' |
    python3 speak.py --voice en-us+f2 --rate 165 --out "$work/speech"
opus "$work/speech-01.wav" speech.ogg 101

# What the `clip` agent says when it is given no file.
printf '%s\n' 'I am sorry, nobody can speak with you right now. Please try again in a few minutes.' |
    python3 speak.py --voice en --rate 155 --out "$work/apology"
opus "$work/apology-01.wav" apology.ogg 102

# What the relay says while another agent takes over, where the route asks for it and names no file.
printf '%s\n' 'One moment, please.' |
    python3 speak.py --voice en --rate 155 --out "$work/moment"
opus "$work/moment-01.wav" moment.ogg 103

ls -l story.ogg story.json speech.ogg apology.ogg moment.ogg
