"""Results for people: tables, figures, and a self-contained HTML page.

`data.ReportData` contains everything that a report shows. `monitoring.reports.report` gathers it from the store; this package
does not read the store.
"""
