# SPDX-License-Identifier: Apache-2.0
"""AudioSet tagging in TensorFlow 2: data, models, training, evaluation, export."""

__version__ = "0.1.0"
