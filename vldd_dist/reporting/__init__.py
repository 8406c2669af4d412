"""Results for people: tables, figures and one self-contained HTML page.

`data.ReportData` is all a report knows; whoever gathers it (the orchestration) reads the store, this package does not.
"""
