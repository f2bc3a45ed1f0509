"""Coriolis: a peer-to-peer mesh that migrates virtual machines between clouds."""

__version__ = "0.1.0"
