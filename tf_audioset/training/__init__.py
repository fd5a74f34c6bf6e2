# SPDX-License-Identifier: Apache-2.0
"""Holds the parts of a run: steps, optimizers, augmentation, checkpoints.

Imports everything but `experiment` and `commands`.
"""
