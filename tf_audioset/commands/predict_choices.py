# SPDX-License-Identifier: Apache-2.0
"""The flags of tools/predict.py that say which classes and events count."""

from __future__ import annotations

import numpy as np
from absl import flags

from tf_audioset.serving import (
  chosen_classes,
  event_text,
  events,
  result_text,
  thresholds,
)

FLAGS = flags.FLAGS


def choice(tagger):
  """Returns which classes are printed."""
  limits = np.full(len(tagger.classes), -np.inf)
  if FLAGS.min_score is not None:
    limits[:] = FLAGS.min_score
  if FLAGS.above_thresholds:
    limits = np.maximum(limits, _thresholds(tagger)[0])
  limits[left_out(tagger)] = np.inf
  is_chosen = FLAGS.above_thresholds or FLAGS.classes
  top_k = FLAGS.top_k
  if top_k is None and not is_chosen and FLAGS.min_score is None:
    top_k = 5
  return result_text.Choice(
    tagger.classes.names, tagger.classes.mids, top_k=top_k, limits=limits
  )


def left_out(tagger):
  """Returns bool [num_classes]: those that --classes does not name."""
  if not FLAGS.classes:
    return np.zeros(len(tagger.classes), bool)
  found = chosen_classes.find(FLAGS.classes, tagger.classes, FLAGS.ontology)
  return ~np.isin(np.arange(len(tagger.classes)), found)


def _thresholds(tagger):
  return thresholds.choose(
    tagger.classes,
    tagger.thresholds,
    csv=FLAGS.thresholds_csv,
    on=FLAGS.threshold,
    off=FLAGS.off_threshold,
  )


def detector(tagger):
  """Returns what finds the events of one recording."""
  on, off = _thresholds(tagger)
  on[left_out(tagger)] = float("inf")
  return events.Detector(
    on,
    off,
    merge_seconds=FLAGS.merge_seconds,
    min_seconds=FLAGS.min_seconds,
  )


def event_writer(tagger, form: str, has_files: bool = False):
  """Returns what writes events in one of `event_text.FORMATS`."""
  return event_text.Writer(
    form,
    tagger.classes.names,
    tagger.classes.mids,
    tagger.sample_rate_hz,
    has_files=has_files,
  )
