# SPDX-License-Identifier: Apache-2.0
"""How fast clips become records, on one core, and what that means for AudioSet.

  python benchmarks/benchmark_preparation.py [--num_clips=64] [--rounds=3]

Files of 10 s, 44.1 kHz, stereo are prepared in this process, as a worker of
make_tfrecords.py does. It measures CPU time, which other programs distort less
than wall time, and takes the best round. The hours assume cores that do nothing
else and never wait for files.
"""

from __future__ import annotations

import pathlib
import tempfile
import time

from absl import flags

from tf_audioset.data import audio
from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clips", 64, "Files of each kind.", lower_bound=1)
flags.DEFINE_integer("rounds", 3, "Rounds; the best counts.", lower_bound=1)
flags.DEFINE_enum("codec", "flac", audio.CODECS, "Codec of the records.")

_RATE_HZ = 44100
_SECONDS = 10
_AUDIOSET_CLIPS = 1.8e6
_CORES = (1, 16, 96)


def main() -> None:
  hours = "".join(f"{f'hours on {cores}':>14}" for cores in _CORES)
  print(f"{'files':6}{'clips/s a core':>16}{'clock':>8}{hours}")
  with tempfile.TemporaryDirectory() as name:
    for kind in ("flac", "wav", "mp3", "ogg", "m4a"):
      folder = pathlib.Path(name) / kind
      folder.mkdir()
      clips = [_write_file(folder / f"{i}.{kind}") for i in range(8)]
      rates = [_measure(clips, folder / f"out{i}") for i in range(FLAGS.rounds)]
      by_cpu, by_clock = (max(rate) for rate in zip(*rates))
      line = f"{kind:6}{by_cpu:16.1f}{by_clock:8.1f}"
      for cores in _CORES:
        line += f"{_AUDIOSET_CLIPS / by_cpu / cores / 3600:14.2f}"
      print(line)


def _measure(paths, out) -> tuple[float, float]:
  """Clips a second of CPU time, and of the clock."""
  from tf_audioset.data import labels
  from tf_audioset.preparation import clip_lists, prepare

  clips = [
    clip_lists.Clip(str(i), str(paths[i % len(paths)]), (0,))
    for i in range(FLAGS.num_clips)
  ]
  cpu, clock = time.process_time(), time.monotonic()
  prepare.prepare(
    labels.ClassList.from_names(["x"]),
    clips,
    str(out),
    "train",
    prepare.Options(codec=FLAGS.codec),
    prepare.local_runner(1),
  )
  return (
    len(clips) / (time.process_time() - cpu),
    len(clips) / (time.monotonic() - clock),
  )


def _write_file(path) -> pathlib.Path:
  """Coloured noise, whose FLAC is about as large as music's."""
  import numpy as np
  import scipy.signal
  import soundfile

  noise = np.random.default_rng(int(path.stem)).normal(
    size=[_SECONDS * _RATE_HZ, 2]
  )
  sound = 0.01 * scipy.signal.lfilter([1], [1, -0.95], noise, axis=0)
  if path.suffix != ".m4a":
    soundfile.write(path, sound, _RATE_HZ)
    return path
  import av

  with av.open(str(path), "w") as file:
    stream = file.add_stream("aac", rate=_RATE_HZ, layout="stereo")
    planes = np.ascontiguousarray(sound.T.astype(np.float32))
    frame = av.AudioFrame.from_ndarray(planes, "fltp", "stereo")
    frame.sample_rate = _RATE_HZ
    converter = av.AudioResampler(
      "fltp", "stereo", _RATE_HZ, stream.codec_context.frame_size
    )
    for part in [*converter.resample(frame), *converter.resample(None), None]:
      file.mux(stream.encode(part))
  return path


if __name__ == "__main__":
  cli.run(main, prog="benchmark_preparation")
