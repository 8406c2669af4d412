"""Results for people: tables, figures and one self-contained HTML page.

`data.ReportData` is everything a report is made of. `monitoring.report` gathers it from the store; this package reads none.
"""
