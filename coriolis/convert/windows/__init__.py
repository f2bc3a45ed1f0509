"""Conversion of Windows guests: registry and files from outside, the rest at the first boot.

Runs in the worker process: standard library and hivex (imported where it is used) only.
"""
