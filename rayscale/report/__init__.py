"""The report: a sweep's ledger and analysis as one self-contained HTML page, and its figures as PNG files.

`gather` collects what is known, `overview`, `findings` and `tables` put it into words and cells, `figures` draws,
`build` writes the page. No module here computes a statistic: what is tested comes from `rayscale.analysis`.
"""
