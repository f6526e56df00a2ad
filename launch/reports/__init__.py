"""All about a run on one page. Imports evaluation, runs, cluster, pages, flags, console."""
