"""Reads what runs left on disk and draws it; knows no model, no torch and no other module of this project.

What is measured: metrics.py, the registry. Files in: files.py, records.py (metrics.csv, summary.json),
decoding_table.py (results.csv), likelihood.py, trace.py. Statistics: paired.py (A/B), pareto.py, blind_score.py. Pages
and plots out: plots.py (the house style), curves.py, sweep.py with sweep_pages.py and sweep_plots.py, report/,
animation/, blind_review.py; templates.py fills the pages of jinja2. On the command line: sweep, curves, likelihood,
report, animation and blind_review, by way of command_line.py.
"""
