"""Make a migrated guest boot at its destination: conversion in an overlay, written back as a delta.

Entry point: ``coriolis.convert.convert.convert``. ``guest_worker`` and ``linux`` run in a process of their
own, under whatever Python can import libguestfs: they use the standard library and ``coriolis.errors`` only.
"""
