"""Exercise checks that say which mistake was made: ``rlbook.checks.harness`` is their door.

from rlbook.checks.harness import check, hint, solution
"""
