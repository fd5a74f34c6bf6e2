# SPDX-License-Identifier: Apache-2.0
"""What decoding is known not to do yet; the tests say what is right.

Each is expected to fail. One that passes is to be taken off the list.
"""

import pytest

_NOT_YET = (
  "audio_matrix_test.py::test_a_whole_file_is_what_was_encoded[tta]",
  "audio_matrix_test.py::test_a_whole_file_is_what_was_encoded[caf alac]",
  "audio_matrix_test.py::test_the_other_library_decodes_the_same[ogg vorbis]",
  "audio_matrix_test.py::test_of_a_file_that_was_cut_off_is_told[caf alac]",
  "audio_matrix_test.py::test_of_a_file_that_was_cut_off_is_told[tta]",
  "audio_matrix_test.py::test_joined_files_are_read_to_the_end_of_the_last"
  "[caf alac]",
  "audio_matrix_test.py::test_junk_in_the_middle_costs_a_few_frames"
  "[mp3 from a pipe]",
  "audio_matrix_test.py::test_samples_that_nobody_counted_are_read_to_the_end"
  "[half of the range-w64]",
  "audio_matrix_test.py::test_samples_that_nobody_counted_are_read_to_the_end"
  "[half of the range-au]",
  "audio_test.py::test_pictures_in_tags_are_no_sound[in the middle]",
  "audio_test.py::test_an_estimate_of_mp3_is_not_believed",
  "audio_test.py::test_the_rip_of_a_stream_begins_anywhere",
)


def pytest_collection_modifyitems(items):
  for item in items:
    if item.nodeid.endswith(_NOT_YET):
      item.add_marker(pytest.mark.xfail(reason="not done yet", strict=False))
