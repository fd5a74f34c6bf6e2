# SPDX-License-Identifier: Apache-2.0
"""Tags audio files with an exported model.

  python tools/predict.py --saved_model DIR [--top_k 5] FILE...

wav, flac, ogg or mp3, at any rate, mono or not; each file is scored whole.
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tf_audioset import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "What training exported.")
flags.DEFINE_integer(
  "top_k", 5, "How many classes to print a file.", lower_bound=1
)


def main(files: list[str]) -> int:
  # Imported late: a mistake in the flags is answered at once.
  import numpy as np

  from tf_audioset import audio, export

  tagger = export.ExportedTagger(FLAGS.saved_model)
  num_failed = 0
  for file in files:
    try:
      waveform = audio.read_audio(file, sample_rate_hz=tagger.sample_rate_hz)
    except (ValueError, OSError) as e:  # The other files are still tagged.
      print(f"predict: error: {e}", file=sys.stderr)
      num_failed += 1
      continue
    scores = tagger.score(waveform[np.newaxis])[0][0]
    print(f"{file}  ({len(waveform) / tagger.sample_rate_hz:.2f} s)")
    for index in np.argsort(-scores, kind="stable")[: FLAGS.top_k]:
      print(f"  {scores[index]:.4f}  {tagger.classes.names[index]}")
  return 1 if num_failed else 0


if __name__ == "__main__":
  cli.run(main, prog="predict", required=["saved_model"], positional="FILE")
