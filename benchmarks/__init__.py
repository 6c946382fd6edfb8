"""One runnable module per performance claim; figures with machine and date go to RESULTS.md."""
