"""Lanes carry a disk's frames between two agents: threads with blocking I/O, in processes of their own where it pays.

``messages`` is what a task (asyncio) and its lane hosts say to each other; ``source_host`` and ``sink_host`` are the
two kinds of host; ``process`` is a host's process; ``host_link`` is the task's end of it.
"""
