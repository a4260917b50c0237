"""environments/ and recipes/ in, locks/ out: resolving, writing, checking and explaining locks.

`lock_writer` makes them, `overrides` refuses what is set aside for nothing, `staleness` tells whether they are
current, `lock_diff` what changed, `why` where a pin comes from.
"""
