# SPDX-License-Identifier: Apache-2.0
"""Scores a split and judges the scores: metrics, intervals, reports.

Imports `runtime` and `data`.
"""
