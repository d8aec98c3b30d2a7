"""One self-contained HTML page about training runs and evaluations. Reads their files and never imports torch."""
