# SPDX-License-Identifier: Apache-2.0
"""Holds what has nothing to do with audio: gin, files, errors, devices.

Imports no other package of tf_audioset.
"""
