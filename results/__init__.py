"""The results of training runs, and the code that makes tables and figures of them.

Here live the CSV and JSON files that the scripts write and whatever reads those files:
`python -m results.tables`, `python -m results.figures`. `python -m results.screenshot` shows a page
in a browser. This folder may import everything; nothing imports it but the tests.
"""
