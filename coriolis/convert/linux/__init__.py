"""Linux guests, converted without running any of their code.

Standard library only (see ``coriolis.convert``).
"""
