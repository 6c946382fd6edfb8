"""From a table to numbers one may believe: efficiency metrics, repeated measures, pairwise comparisons, text.

Reading order: `table` (records -> frame), `cells` (frame -> checked array), `kernel` and its neighbours (arrays in,
frozen results out), `tree` (results -> the JSON tree of design 4.6), `text` (the tree for people), `run` (the way in).
Importing this package loads nothing heavy.
"""
