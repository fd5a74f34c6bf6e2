# SPDX-License-Identifier: Apache-2.0
"""Turns lists and folders of labelled audio files into records.

Imports `runtime` and `data`.
"""
