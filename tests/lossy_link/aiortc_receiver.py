"""What aiortc's receiver (its jitter buffer and its decoder) makes of recorded packets, without a network.

Reads JSON from standard input: [{"name", "file", "packets": [[sequence number, timestamp, base64], ...]}], packets in
the order of their arrival. Writes raw 16-bit mono samples at 48 kHz to each file, every decoded frame at its timestamp;
what is missing is silent.
"""
import base64
import json
import sys

import numpy
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket


def hear(packets):
    # As RTCRtpReceiver makes them for audio.
    buffer, decoder = JitterBuffer(capacity=16, prefetch=4), OpusDecoder()
    first = min(timestamp for _, timestamp, _ in packets)
    heard = numpy.zeros(max(timestamp for _, timestamp, _ in packets) - first + 960, dtype=numpy.int16)
    for sequence_number, timestamp, payload in packets:
        packet = RtpPacket(payload_type=111, sequence_number=sequence_number, timestamp=timestamp)
        packet._data = packet.payload = base64.b64decode(payload)
        _, frame = buffer.add(packet)
        for decoded in decoder.decode(frame) if frame else []:
            # Interleaved stereo, both channels the same.
            samples = decoded.to_ndarray().reshape(-1, 2)[:, 0]
            at = frame.timestamp - first
            heard[at : at + len(samples)] = samples[: len(heard) - at]
    return heard


for recording in json.load(sys.stdin):
    hear(recording["packets"]).tofile(recording["file"])
