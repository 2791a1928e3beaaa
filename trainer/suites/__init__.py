"""Suites of problems with stored baselines, and the challenge of one optimizer.

A suite is a sweep file with `problems`. Its baselines are the finished sweep, stored without checkpoints.
"""
