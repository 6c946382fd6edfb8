"""The MLflow mirror (design 4.7): what the ledger says, shown in MLflow; never the truth, never in a sweep's way.

Reading order: `store` (where it lies), `content` (what one MLflow run should hold), `trial_content`, `parent_content`
and `summary_content` (that, from the ledger), `runs` (the only module that talks to MLflow), `mirror` (what to bring up
to date when), `guard` (the thread that keeps a sweep safe from it), `ui` (MLflow's own pages).
"""
