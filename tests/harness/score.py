"""PESQ-WB (ITU-T P.862.2) of pairs of recordings, read as JSON from standard input:
[{"name": ..., "original": {"file": ..., "rate": Hz}, "heard": the same}], files of raw 16-bit little-endian mono
samples that are aligned already. Prints {name: MOS-LQO}. Other rates than 16 kHz are converted first."""
import json
import math
import sys

import numpy
from pesq import pesq
from scipy.signal import resample_poly

WIDEBAND = 16000


def read(recording):
    samples = numpy.fromfile(recording["file"], dtype="<i2").astype(numpy.float64) / 32768
    rate = recording["rate"]
    common = math.gcd(rate, WIDEBAND)
    return samples if rate == WIDEBAND else resample_poly(samples, WIDEBAND // common, rate // common)


scores = {pair["name"]: pesq(WIDEBAND, read(pair["original"]), read(pair["heard"]), "wb") for pair in json.load(sys.stdin)}
json.dump(scores, sys.stdout)
