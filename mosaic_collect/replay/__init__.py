"""Compare a checkpoint's actions with those of a store.

``check`` and ``policy`` need torch; ``report`` does not.
"""
